// What tokenizer.json says, read and checked: shared by the encoders. Immutable after loading, thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "memory/result.h"
#include "models/tokenizer/added_tokens.h"
#include "models/tokenizer/bpe.h"
#include "models/tokenizer/normalizer.h"
#include "models/tokenizer/pre_tokenizer.h"

namespace pointsman {

struct TokenEntry {
  std::string content;
  std::string bytes;  // what the token decodes to
  bool special = false;
};

struct TokenizerParts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BytePairEncoder encoder;
  std::vector<AddedToken> added;
  AddedTokenFinder before_normalization, after_normalization;
  std::vector<TokenEntry> table;  // by id
  std::unordered_map<std::string, int32_t> ids;

  // Appends the ids of normalised text without added tokens.
  void EncodeText(std::string_view text, std::vector<int32_t>& out) const;
};

// Errors as of Tokenizer::Load.
Result<TokenizerParts> LoadTokenizerParts(const std::filesystem::path& tokenizer_json);

}  // namespace pointsman
