// Tokens that are recognised inside the text before BPE, such as <|endoftext|>. Immutable, thread-safe.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "memory/result.h"
#include "models/tokenizer/normalizer.h"

namespace pointsman {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;   // looked for after normalisation, else before
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool single_word = false;  // only between non-word characters
};

// The "added_tokens" list of tokenizer.json (null: none). kCorrupt for duplicates and bad ids.
Result<std::vector<AddedToken>> ReadAddedTokens(const nlohmann::json& list, const std::string& file);

// An added token (id >= 0, no text), or text to go on with (id == -1).
struct Piece {
  int32_t id;
  std::string_view text;
};

// Where some tokens must not be found: parts of the text that a stranger wrote.
struct TokenGuard {
  std::vector<bool> foreign;             // by byte of the text
  std::span<const int32_t> tokens = {};  // ids, ascending: not where one of their bytes is foreign
};

// Finds one set of tokens in a text: leftmost first, the longest among those that start at the same place.
class AddedTokenFinder {
 public:
  // Tokens whose `normalized` equals the argument; with true their content is normalised too.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer& normalizer);

  // Appends the pieces of `text` in order; empty ones are left out. REQUIRES: text is valid UTF-8.
  void Split(std::string_view text, std::vector<Piece>& pieces, const TokenGuard* guard = nullptr) const;

 private:
  const AddedToken* LongestAt(std::string_view text, size_t at, size_t& end, const TokenGuard* guard) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, uint32_t> edges_;  // of a byte trie: node << 8 | byte -> node
  std::vector<int32_t> token_at_;                 // by node: index in tokens_, or -1
};

}  // namespace pointsman
