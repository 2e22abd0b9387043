#include "indexer/evaluation/token_groups.h"

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <optional>
#include <set>

namespace pointsman {
namespace {

constexpr size_t kFirstBin = 4;  // positions in the first bin

bool IsSpace(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(unsigned char c) { return c >= '0' && c <= '9'; }
bool IsLetter(unsigned char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c > 127; }
bool IsPunctuation(unsigned char c) { return c > ' ' && c < 127 && !IsDigit(c) && !IsLetter(c); }

// The file of a row of a .jsonl file ("a/train.jsonl" of "a/train.jsonl#7").
std::optional<std::string> RowsFile(const std::string& source) {
  const size_t hash = source.rfind('#');
  if (hash == std::string::npos || hash + 1 == source.size()) return std::nullopt;
  if (!std::all_of(source.begin() + static_cast<ptrdiff_t>(hash) + 1, source.end(), IsDigit)) return std::nullopt;
  const std::string file = source.substr(0, hash);
  return file.ends_with(".jsonl") ? std::optional(file) : std::nullopt;
}

using Folders = std::vector<std::string>;

Folders FoldersOf(const std::string& source) {
  Folders folders;
  for (const auto& part : std::filesystem::path(source).parent_path()) folders.push_back(part.string());
  return folders;
}

size_t CommonLength(const std::vector<Folders>& all) {
  size_t length = all.empty() ? 0 : all.front().size();
  for (const Folders& folders : all) {
    length = std::min(length, folders.size());
    while (!std::equal(folders.begin(), folders.begin() + static_cast<ptrdiff_t>(length), all.front().begin())) {
      --length;
    }
  }
  return length;
}

std::string ExtensionOf(const std::string& source) {
  const std::string extension = std::filesystem::path(source).extension().string();
  return extension.empty() ? "no extension" : extension;
}

}  // namespace

const char* TokenClassText(TokenClass token_class) {
  static constexpr std::array<const char*, kTokenClasses> kTexts{"word or identifier", "number", "punctuation",
                                                                 "white space", "other"};
  return kTexts[static_cast<size_t>(token_class)];
}

TokenClass TokenClassOf(std::string_view bytes) {
  if (bytes.empty()) return TokenClass::kOther;
  while (!bytes.empty() && IsSpace(bytes.front())) bytes.remove_prefix(1);
  while (!bytes.empty() && IsSpace(bytes.back())) bytes.remove_suffix(1);
  if (bytes.empty()) return TokenClass::kSpace;
  const auto all = [&](auto test) { return std::all_of(bytes.begin(), bytes.end(), test); };
  if (all(IsPunctuation)) return TokenClass::kPunctuation;
  const auto is_word = [](unsigned char c) { return IsLetter(c) || IsDigit(c); };
  if (IsLetter(bytes.front()) && all(is_word)) return TokenClass::kWord;
  const auto is_number = [&](unsigned char c) { return is_word(c) || c == '.' || c == '\''; };
  if (IsDigit(bytes.front()) && all(is_number)) return TokenClass::kNumber;
  return TokenClass::kOther;
}

size_t PositionBin(size_t position) { return static_cast<size_t>(std::bit_width(position / kFirstBin)); }

std::string PositionBinText(size_t bin) {
  const size_t last = kFirstBin << bin, first = bin == 0 ? 1 : last / 2 + 1;
  return std::to_string(first) + " to " + std::to_string(last);
}

std::vector<KindGrouping> GroupByKind(std::span<const std::string> sources) {
  KindGrouping extension{"extension", std::vector<std::string>(sources.size())};
  KindGrouping folder{"folder", extension.kind}, file{"file", extension.kind};
  std::vector<Folders> folders;
  std::vector<size_t> plain;  // sources that are files of their own
  for (size_t i = 0; i < sources.size(); ++i) {
    if (const auto rows_file = RowsFile(sources[i])) {
      file.kind[i] = std::filesystem::path(*rows_file).filename().string();
      continue;
    }
    extension.kind[i] = ExtensionOf(sources[i]);
    folders.push_back(FoldersOf(sources[i]));
    plain.push_back(i);
  }
  const size_t common = CommonLength(folders);
  std::set<std::string> distinct;
  for (size_t i = 0; i < plain.size(); ++i) {
    std::string& name = folder.kind[plain[i]];
    name = folders[i].size() > common ? folders[i][common] + "/" : "(top)";
    distinct.insert(name);
  }
  std::vector<KindGrouping> groupings;
  if (!plain.empty()) groupings.push_back(std::move(extension));
  if (distinct.size() > 1) groupings.push_back(std::move(folder));
  if (plain.size() < sources.size()) groupings.push_back(std::move(file));
  return groupings;
}

}  // namespace pointsman
