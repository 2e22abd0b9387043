// Encodes text of two authors, such as a rendered chat: what one of them wrote never becomes a control token.
//
// Immutable after Load: any number of threads may encode. No LibTorch here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct ByteRange {
  size_t begin = 0, end = 0;
};
// In the ranges `plain` (ascending, disjoint, not empty) no control token is recognised.
struct MarkedText {
  std::string text;
  std::vector<ByteRange> plain;
};

class MarkedEncoder {
 public:
  // Control tokens: the special ones, those named in `control` by their text, and the added ones that appear in
  // `written` (a chat template's source) and are not only white space. Errors as of Tokenizer::Load.
  static Result<std::unique_ptr<const MarkedEncoder>> Load(const std::filesystem::path& tokenizer_json,
                                                           std::string_view written,
                                                           const std::vector<std::string>& control = {});
  ~MarkedEncoder();

  // As Tokenizer::Encode, but a control token is recognised only where none of its bytes lie in a plain range; there
  // its letters are text like any other. All else, merges across a range's ends among it, is the same. A vocabulary
  // whose merges spell a control token's own entry would still make it (no such model is known).
  std::vector<int32_t> Encode(const MarkedText& marked) const;

 private:
  struct Impl;
  explicit MarkedEncoder(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace pointsman
