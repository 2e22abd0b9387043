// A compiled splitting pattern. Immutable: any number of threads may match with it at once.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "memory/result.h"

struct pcre2_real_code_8;

namespace pointsman {

struct Match {
  size_t begin, end;  // byte offsets, begin < end
};

class Pattern {
 public:
  // `regex` in Oniguruma's dialect. kUnsupported or kCorrupt with the reason, without the file's name. Patterns that
  // can match the empty string are refused: no tokenizer needs them.
  static Result<Pattern> Compile(std::string_view regex);
  // Matches exactly `text`, which must not be empty.
  static Result<Pattern> Literal(std::string_view text);

  // Appends all matches from left to right. REQUIRES: text is valid UTF-8. A pattern that backtracks beyond the limits
  // stops there: the rest counts as not matched.
  void FindAll(std::string_view text, std::vector<Match>& matches) const;

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace pointsman
