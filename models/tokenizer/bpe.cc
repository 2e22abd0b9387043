#include "models/tokenizer/bpe.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <queue>

#include "models/json_text.h"
#include "models/tokenizer/byte_alphabet.h"

namespace pointsman {
namespace {

constexpr size_t kMaxVocabulary = 4'000'000;
constexpr int32_t kAbsent = -1;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Everything that would make this more than merges over bytes.
Status RefuseOptions(const nlohmann::json& model, const std::string& file) {
  const JsonFields fields(model, file);
  POINTSMAN_TRY(const std::string type, fields.Text("type", "BPE"));
  if (type != "BPE") {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: model '{}' is not supported; byte-level BPE is", file, OneLine(type))};
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "unk_token"}) {
    POINTSMAN_TRY(const std::string text, fields.Text(key, ""));
    if (text.empty()) continue;
    return Error{ErrorCode::kUnsupported, fmt::format("{}: model.{} is not supported; it must be null", file, key)};
  }
  POINTSMAN_TRY(const double dropout, fields.Number("dropout", 0, 1, 0.0));
  POINTSMAN_TRY(const bool byte_fallback, fields.Boolean("byte_fallback", false));
  if (dropout == 0 && !byte_fallback) return {};
  return Error{ErrorCode::kUnsupported,
               fmt::format("{}: model.{} is not supported", file, byte_fallback ? "byte_fallback" : "dropout")};
}

// "left right" or ["left", "right"].
bool ReadMergePair(const nlohmann::json& item, std::string& left, std::string& right) {
  if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
    left = item[0].get<std::string>();
    right = item[1].get<std::string>();
    return true;
  }
  if (!item.is_string()) return false;
  const auto& text = item.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return false;
  left = text.substr(0, space);
  right = text.substr(space + 1);
  return true;
}

// Bytes that occur in valid UTF-8: all but C0, C1 and F5..FF.
bool OccursInUtf8(int byte) { return byte != 0xc0 && byte != 0xc1 && byte < 0xf5; }

}  // namespace

Result<BytePairEncoder> BytePairEncoder::Create(const nlohmann::json& model, const std::string& file) {
  if (!model.is_object()) return Error{ErrorCode::kCorrupt, file + ": 'model' is missing"};
  POINTSMAN_CHECK_OK(RefuseOptions(model, file));
  BytePairEncoder encoder;
  POINTSMAN_TRY(encoder.ignore_merges_, JsonFields(model, file).Boolean("ignore_merges", false));
  POINTSMAN_CHECK_OK(encoder.ReadVocabulary(model, file));
  POINTSMAN_CHECK_OK(encoder.ReadMerges(model, file));
  return encoder;
}

Status BytePairEncoder::ReadVocabulary(const nlohmann::json& model, const std::string& file) {
  const auto vocabulary = model.find("vocab");
  if (vocabulary == model.end() || !vocabulary->is_object() || vocabulary->empty() ||
      vocabulary->size() > kMaxVocabulary) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: model.vocab is not an object of 1..{} tokens", file, kMaxVocabulary)};
  }
  byte_ids_.fill(kAbsent);
  for (const auto& [token, value] : vocabulary->items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX) {
      return Error{ErrorCode::kCorrupt,
                   fmt::format("{}: token '{}' has an id that is no integer below 2^31", file, OneLine(token))};
    }
    const auto id = value.get<int32_t>();
    vocabulary_.emplace(token, id);
    const std::optional<std::string> bytes = BytesOfToken(token);
    if (!bytes) continue;
    if (bytes->size() == 1) byte_ids_[static_cast<uint8_t>((*bytes)[0])] = id;
    if (ignore_merges_) whole_words_.emplace(*bytes, id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] != kAbsent || !OccursInUtf8(byte)) continue;
    return Error{
        ErrorCode::kUnsupported,
        fmt::format("{}: the vocabulary has no token for byte 0x{:02x}; text with it would be lost", file, byte)};
  }
  return {};
}

Status BytePairEncoder::ReadMerges(const nlohmann::json& model, const std::string& file) {
  const auto list = model.find("merges");
  if (list == model.end() || !list->is_array() || list->size() > 2 * kMaxVocabulary) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: model.merges is not a list", file)};
  }
  merges_.reserve(list->size());
  std::string left, right;
  for (const auto& item : *list) {
    if (item.is_string() && item.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto rank = static_cast<int32_t>(merge_list_.size());
    if (!ReadMergePair(item, left, right)) {
      return Error{ErrorCode::kCorrupt, fmt::format("{}: merge {} is not a pair of tokens", file, rank)};
    }
    const auto left_id = vocabulary_.find(left), right_id = vocabulary_.find(right);
    const auto merged = vocabulary_.find(left + right);
    if (left_id == vocabulary_.end() || right_id == vocabulary_.end() || merged == vocabulary_.end()) {
      return Error{ErrorCode::kCorrupt,
                   fmt::format("{}: merge {} ('{}' '{}') names a token that is not in the vocabulary", file, rank,
                               OneLine(left), OneLine(right))};
    }
    merges_[PairKey(left_id->second, right_id->second)] = {rank, merged->second};
    merge_list_.emplace_back(left_id->second, right_id->second);
  }
  return {};
}

const BytePairEncoder::Merge* BytePairEncoder::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const auto whole = whole_words_.find(std::string(word));
    if (whole != whole_words_.end()) return ids.push_back(whole->second);
  }
  // Symbols form a linked list, so that a merge costs O(1) and a word of n bytes O(n log n).
  struct Symbol {
    int32_t id, previous, next;
  };
  struct Candidate {
    int32_t rank, position, id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const auto size = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  std::vector<Candidate> storage;
  storage.reserve(word.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue({}, std::move(storage));
  auto propose = [&](int32_t position) {
    if (position < 0 || symbols[position].next >= size) return;
    const Merge* merge = FindMerge(symbols[position].id, symbols[symbols[position].next].id);
    if (merge != nullptr) queue.push({merge->rank, position, merge->id});
  };
  for (int32_t i = 0; i < size; ++i) symbols[i] = {byte_ids_[static_cast<uint8_t>(word[i])], i - 1, i + 1};
  for (int32_t i = 0; i < size; ++i) propose(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id == kAbsent || left.next >= size) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->rank != best.rank) continue;  // one of the two was merged since
    left.id = best.id;
    left.next = right.next;
    right.id = kAbsent;
    if (left.next < size) symbols[left.next].previous = best.position;
    propose(left.previous);
    propose(best.position);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id != kAbsent) ids.push_back(symbol.id);
  }
}

std::string BytePairEncoder::Canonical() const {
  std::string out = fmt::format("ignore_merges {}\n", ignore_merges_);
  for (const auto& [left, right] : merge_list_) out += fmt::format("{} {}\n", left, right);
  return out;
}

}  // namespace pointsman
