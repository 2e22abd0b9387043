// Byte-pair encoding of one word over a byte-level vocabulary. Immutable, thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "memory/result.h"

namespace pointsman {

class BytePairEncoder {
 public:
  // `model`: the "model" value of tokenizer.json. kUnsupported for what is not plain byte-level BPE (dropout, affixes,
  // byte_fallback, ..); kCorrupt for bad ids, merges that name no vocabulary entry, or a missing byte.
  static Result<BytePairEncoder> Create(const nlohmann::json& model, const std::string& file);

  // Appends the ids of `word` (raw bytes): the pair of lowest rank is merged first, the leftmost among equals.
  void Encode(std::string_view word, std::vector<int32_t>& ids) const;

  const std::unordered_map<std::string, int32_t>& vocabulary() const { return vocabulary_; }  // by token string
  // Merges in order of rank and what else decides the result, for the fingerprint.
  std::string Canonical() const;

 private:
  struct Merge {
    int32_t rank = 0;
    int32_t id = 0;
  };
  Status ReadVocabulary(const nlohmann::json& model, const std::string& file);
  Status ReadMerges(const nlohmann::json& model, const std::string& file);
  const Merge* FindMerge(int32_t left, int32_t right) const;

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::unordered_map<std::string, int32_t> whole_words_;  // by bytes; only with ignore_merges
  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::vector<std::pair<int32_t, int32_t>> merge_list_;
  bool ignore_merges_ = false;
};

}  // namespace pointsman
