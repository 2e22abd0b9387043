#include "models/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "models/json_text.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

constexpr size_t kMaxAddedTokens = 1 << 20;
constexpr size_t kMaxContentBytes = 4096;

Result<AddedToken> ReadAddedToken(const nlohmann::json& item, const std::string& file) {
  if (!item.is_object()) return Error{ErrorCode::kCorrupt, file + ": an added token is not an object"};
  const JsonFields fields(item, file);
  AddedToken token;
  POINTSMAN_TRY(const int64_t id, fields.Integer("id", 0, INT32_MAX));
  token.id = static_cast<int32_t>(id);
  POINTSMAN_TRY(token.content, fields.Text("content"));
  POINTSMAN_TRY(token.special, fields.Boolean("special", false));
  POINTSMAN_TRY(token.normalized, fields.Boolean("normalized", !token.special));
  POINTSMAN_TRY(token.lstrip, fields.Boolean("lstrip", false));
  POINTSMAN_TRY(token.rstrip, fields.Boolean("rstrip", false));
  POINTSMAN_TRY(token.single_word, fields.Boolean("single_word", false));
  if (token.content.empty() || token.content.size() > kMaxContentBytes) {
    return fields.Bad("content", fmt::format("of added token {} is empty or longer than 4 KiB", id));
  }
  return token;
}

// Start of the white space that ends at `at`.
size_t SpaceBefore(std::string_view text, size_t at) {
  while (at > 0) {
    const DecodedCodePoint decoded = DecodeUtf8Before(text, at);
    if (!IsWhiteSpace(decoded.value)) break;
    at -= decoded.bytes;
  }
  return at;
}

size_t SpaceAfter(std::string_view text, size_t at) {
  while (at < text.size()) {
    const DecodedCodePoint decoded = DecodeUtf8(text, at);
    if (!IsWhiteSpace(decoded.value)) break;
    at += decoded.bytes;
  }
  return at;
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && IsWordCharacter(DecodeUtf8Before(text, begin).value)) ||
         (end < text.size() && IsWordCharacter(DecodeUtf8(text, end).value));
}

}  // namespace

Result<std::vector<AddedToken>> ReadAddedTokens(const nlohmann::json& list, const std::string& file) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  if (!list.is_array() || list.size() > kMaxAddedTokens) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: 'added_tokens' is not a list of at most 2^20", file)};
  }
  std::set<std::string> contents;
  for (const auto& item : list) {
    POINTSMAN_TRY(AddedToken token, ReadAddedToken(item, file));
    if (!contents.insert(token.content).second) {
      return Error{ErrorCode::kCorrupt,
                   fmt::format("{}: added token '{}' appears twice", file, OneLine(token.content))};
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                                   const Normalizer& normalizer) {
  token_at_.push_back(-1);
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized) continue;
    const std::string content = normalized ? normalizer.Normalize(token.content) : token.content;
    uint32_t node = 0;
    for (unsigned char byte : content) {
      const auto [edge, is_new] =
          edges_.emplace(static_cast<uint64_t>(node) << 8 | byte, static_cast<uint32_t>(token_at_.size()));
      if (is_new) token_at_.push_back(-1);
      node = edge->second;
    }
    if (node == 0 || token_at_[node] >= 0) continue;  // normalised to nothing, or to an earlier token
    token_at_[node] = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
  }
}

const AddedToken* AddedTokenFinder::LongestAt(std::string_view text, size_t at, size_t& end,
                                              const TokenGuard* guard) const {
  const AddedToken* longest = nullptr;
  bool foreign = false;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    foreign = foreign || (guard && guard->foreign[i]);
    if (token_at_[node] < 0) continue;
    if (foreign && std::binary_search(guard->tokens.begin(), guard->tokens.end(),
                                      tokens_[static_cast<size_t>(token_at_[node])].id)) {
      continue;
    }
    longest = &tokens_[static_cast<size_t>(token_at_[node])];
    end = i + 1;
  }
  return longest;
}

void AddedTokenFinder::Split(std::string_view text, std::vector<Piece>& pieces, const TokenGuard* guard) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    size_t end = at;
    const AddedToken* token = LongestAt(text, at, end, guard);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    at = end;  // a refused match is still passed over
    if (token->single_word && TouchesWord(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(SpaceBefore(text, begin), done);
    if (token->rstrip) end = SpaceAfter(text, end);
    if (done < begin) pieces.push_back({-1, text.substr(done, begin - done)});
    pieces.push_back({token->id, {}});
    // As in the library: a token of white space that an rstrip before it took is found again, and `done` steps back.
    done = end;
  }
  if (done < text.size()) pieces.push_back({-1, text.substr(done)});
}

}  // namespace pointsman
