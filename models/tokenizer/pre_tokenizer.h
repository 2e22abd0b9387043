// The pre-tokeniser of tokenizer.json: cuts text into the words that BPE merges within. Immutable, thread-safe.
#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"
#include "models/tokenizer/pattern.h"

namespace pointsman {

// What becomes of the text that a pattern matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  // `spec`: the "pre_tokenizer" value: ByteLevel, or a Sequence of Split and Digits that ends in ByteLevel.
  static Result<PreTokenizer> Create(const nlohmann::json& spec, const std::string& file);

  // Words in order. Their text lies in `text` or, where a space was put in front, in `storage`.
  // REQUIRES: text is valid UTF-8.
  std::vector<std::string_view> Split(std::string_view text, std::deque<std::string>& storage) const;
  std::string Canonical() const { return canonical_; }  // for the fingerprint

 private:
  struct Step {
    enum class Kind { kPrefixSpace, kPattern, kDigits } kind;
    Pattern pattern;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
  };
  Status AddStep(const nlohmann::json& spec, bool last, const std::string& file);
  Status AddSplit(const nlohmann::json& spec, const std::string& file);

  std::vector<Step> steps_;
  std::string canonical_;
};

}  // namespace pointsman
