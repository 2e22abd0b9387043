// tokenizer.json: byte-level BPE with its normaliser, pre-tokeniser and added tokens; ids identical to the Hugging Face
// tokenizers library. Anything the file asks for that is not implemented is refused by name (kUnsupported).
// Immutable after Load: any number of threads may encode. No LibTorch here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct ByteRange {
  size_t begin = 0, end = 0;
};
// Text of two authors: in the ranges `plain` (ascending, disjoint, not empty) no control token is recognised.
struct MarkedText {
  std::string text;
  std::vector<ByteRange> plain;
};

class Tokenizer {
 public:
  static Result<std::unique_ptr<const Tokenizer>> Load(const std::filesystem::path& tokenizer_json);
  ~Tokenizer();

  // Ids of `text` (without special tokens added). Invalid UTF-8 is replaced by U+FFFD, as Python's
  // bytes.decode("utf-8", "replace") does. Added tokens inside the text are recognised.
  std::vector<int32_t> Encode(std::string_view text) const;
  // The same, but a token of `control` is recognised only where none of its bytes lie in a plain range; there its
  // letters are text like any other. All else, merges across a range's ends among it, is as in Encode.
  // Where the vocabulary itself can spell a control token by merges, that spelling stays (no such model is known).
  std::vector<int32_t> Encode(const MarkedText& marked, std::span<const int32_t> control) const;
  // Special tokens, and the added ones that appear in `written` and are not only white space: what a chat template may
  // write and a message may not. Ascending.
  std::vector<int32_t> ControlTokens(std::string_view written) const;
  // Bytes of the ids; byte-level tokens may form partial UTF-8 (the caller replaces or buffers).
  std::string Decode(std::span<const int32_t> ids, bool skip_special = true) const;
  int64_t vocab_size() const;
  // Canonical vocabulary and merges (fingerprint).
  std::string CanonicalText() const;
  // Id of a token string such as "<|endoftext|>", or -1.
  int32_t TokenId(std::string_view token) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace pointsman
