// Final answers in text: where a pattern finds them, when two are the same, and which one most samples gave.
// Needs no model. Immutable after Compile: any number of threads may search at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"

struct pcre2_real_code_8;

namespace pointsman {

// GSM8K's own: its reference answers end in "#### 18".
inline constexpr const char* kGsm8kPattern = "#### (-?[0-9.,]+)";

struct FoundAnswer {
  std::string text;    // as NormalizeAnswer gives it
  bool final = false;  // the match ends before the text does: more text cannot lengthen it
};

class AnswerPattern {
 public:
  // A PCRE2 pattern. The answer is its first group, or all of the match if it has none. kInvalidArgument with the
  // reason and the place.
  static Result<AnswerPattern> Compile(const std::string& regex);

  // The first match in `text` (any bytes: what is no UTF-8 matches nothing), if its answer is not empty. A search that
  // backtracks beyond the limits (tens of milliseconds) finds nothing.
  std::optional<FoundAnswer> Find(std::string_view text) const;

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
};

// Numbers in one form: "$1,234.50", "1234.5" and "+01234.5." are the same; other text with single spaces.
std::string NormalizeAnswer(std::string_view text);

struct Vote {
  std::string answer;
  uint64_t votes = 0;
};
// Most votes first; of equal ones the first seen. Samples without an answer do not vote.
std::vector<Vote> CountVotes(std::span<const std::optional<std::string>> answers);

}  // namespace pointsman
