#include "indexer/licence_comments.h"

#include <algorithm>
#include <array>

namespace pointsman {
namespace {

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool MentionsLicence(std::string_view comment) {
  static constexpr std::array<std::string_view, 4> kWords = {"copyright", "license", "licence", "spdx-"};
  return std::any_of(kWords.begin(), kWords.end(), [comment](std::string_view word) {
    return std::search(comment.begin(), comment.end(), word.begin(), word.end(),
                       [](char a, char b) { return Lower(a) == b; }) != comment.end();
  });
}

std::string_view TrimLeft(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  return first == std::string_view::npos ? std::string_view() : text.substr(first);
}

// Bytes up to and including `close`, or all of `text` when it is not closed.
size_t BlockLength(std::string_view text, std::string_view close) {
  const size_t end = text.find(close);
  return end == std::string_view::npos ? text.size() : end + close.size();
}

std::string_view LineMarker(std::string_view line) {
  const std::string_view trimmed = TrimLeft(line);
  for (const std::string_view marker : {"//", ";;", "--"}) {
    if (trimmed.starts_with(marker)) return marker;
  }
  // "#include" is code; "# text" and a bare "#" are comments of scripts.
  if (trimmed.starts_with("# ") || trimmed == "#" || trimmed == "#\r") return "#";
  return {};
}

// Length of the comment that starts at the beginning of `text` (the start of a line), or 0.
size_t CommentLength(std::string_view text) {
  const size_t indent = text.size() - TrimLeft(text).size();
  const std::string_view trimmed = text.substr(indent);
  if (trimmed.starts_with("/*")) return indent + BlockLength(trimmed, "*/");
  if (trimmed.starts_with("<!--")) return indent + BlockLength(trimmed, "-->");
  size_t length = 0;
  const std::string_view marker = LineMarker(text.substr(0, text.find('\n')));
  while (!marker.empty() && length < text.size()) {
    const std::string_view line = text.substr(length, text.find('\n', length) - length);
    if (LineMarker(line) != marker) break;
    length += std::min(line.size() + 1, text.size() - length);
  }
  return length;
}

}  // namespace

std::string WithoutLicenceComments(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  while (!text.empty()) {
    size_t length = CommentLength(text);
    const bool drop = length > 0 && MentionsLicence(text.substr(0, length));
    if (length == 0) length = std::min(text.find('\n'), text.size() - 1) + 1;  // one line of code
    if (!drop) kept += text.substr(0, length);
    text.remove_prefix(length);
  }
  return kept;
}

}  // namespace pointsman
