#include "models/tokenizer/tokenizer_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>

#include "models/json_text.h"
#include "models/tokenizer/byte_alphabet.h"

namespace pointsman {
namespace {

constexpr uint64_t kMaxFileBytes = 256ull << 20;

// Of one Encode call: words repeat, and merging costs more than a look-up.
using WordCache = std::unordered_map<std::string_view, std::vector<int32_t>>;

// Every step of `spec` must be one of `types`. Null is accepted if `null_ok`.
Status RequireTypes(const nlohmann::json& spec, const char* field, const char* list,
                    std::initializer_list<const char*> types, bool null_ok, const std::string& file) {
  if (spec.is_null() && null_ok) return {};
  if (spec.is_null()) return Error{ErrorCode::kUnsupported, fmt::format("{}: no {}; ByteLevel is needed", file, field)};
  POINTSMAN_TRY(const std::vector<const nlohmann::json*> steps, FlattenSequence(spec, list, file));
  for (const nlohmann::json* step : steps) {
    const std::string type = step->at("type").get<std::string>();
    if (std::find(types.begin(), types.end(), type) != types.end()) continue;
    return Error{ErrorCode::kUnsupported, fmt::format("{}: {} '{}' is not supported", file, field, OneLine(type))};
  }
  return {};
}

// Ids of vocabulary and added tokens together: 0..n-1, each once. The library numbers added tokens itself (their id in
// the vocabulary, or the next free one) and ignores the file's ids, so a file that disagrees is refused.
Result<std::vector<TokenEntry>> BuildTokenTable(const std::unordered_map<std::string, int32_t>& vocabulary,
                                                const std::vector<AddedToken>& added, const std::string& file) {
  std::vector<std::pair<std::string, int32_t>> tokens(vocabulary.begin(), vocabulary.end());
  for (const AddedToken& token : added) {
    const auto known = vocabulary.find(token.content);
    if (known == vocabulary.end()) {
      tokens.emplace_back(token.content, token.id);
    } else if (known->second != token.id) {
      return Error{ErrorCode::kCorrupt, fmt::format("{}: added token '{}' has id {}, but {} in the vocabulary", file,
                                                    OneLine(token.content), token.id, known->second)};
    }
  }
  std::vector<TokenEntry> table(tokens.size());
  for (auto& [content, id] : tokens) {
    if (static_cast<size_t>(id) >= table.size() || !table[id].content.empty()) {
      return Error{ErrorCode::kCorrupt, fmt::format("{}: token ids are not 0..{} each once (token '{}' has id {})",
                                                    file, table.size() - 1, OneLine(content), id)};
    }
    if (content.empty()) return Error{ErrorCode::kCorrupt, fmt::format("{}: token {} is empty", file, id)};
    table[id].bytes = BytesOfToken(content).value_or(content);
    table[id].content = std::move(content);
  }
  for (const AddedToken& token : added) table[token.id].special = token.special;
  return table;
}

}  // namespace

void TokenizerParts::EncodeText(std::string_view text, std::vector<int32_t>& out) const {
  std::deque<std::string> storage;
  WordCache cache;
  for (std::string_view word : pre_tokenizer.Split(text, storage)) {
    const auto [known, is_new] = cache.try_emplace(word);
    if (is_new) encoder.Encode(word, known->second);
    out.insert(out.end(), known->second.begin(), known->second.end());
  }
}

Result<TokenizerParts> LoadTokenizerParts(const std::filesystem::path& tokenizer_json) {
  const std::string file = tokenizer_json.string();
  POINTSMAN_TRY(nlohmann::json root, ReadJsonObject(tokenizer_json, kMaxFileBytes));
  // truncation and padding are the caller's business here; the post-processor only adds special tokens and offsets.
  POINTSMAN_CHECK_OK(RequireTypes(root["decoder"], "decoder", "decoders", {"ByteLevel"}, false, file));
  POINTSMAN_CHECK_OK(RequireTypes(root["post_processor"], "post_processor", "processors",
                                  {"ByteLevel", "TemplateProcessing"}, true, file));
  POINTSMAN_TRY(Normalizer normalizer, Normalizer::Create(root["normalizer"], file));
  POINTSMAN_TRY(PreTokenizer pre_tokenizer, PreTokenizer::Create(root["pre_tokenizer"], file));
  POINTSMAN_TRY(std::vector<AddedToken> added, ReadAddedTokens(root["added_tokens"], file));
  POINTSMAN_TRY(BytePairEncoder encoder, BytePairEncoder::Create(root["model"], file));
  POINTSMAN_TRY(std::vector<TokenEntry> table, BuildTokenTable(encoder.vocabulary(), added, file));
  std::unordered_map<std::string, int32_t> ids;
  for (size_t id = 0; id < table.size(); ++id) ids.emplace(table[id].content, static_cast<int32_t>(id));
  AddedTokenFinder before(added, false, normalizer), after(added, true, normalizer);
  return TokenizerParts{std::move(normalizer), std::move(pre_tokenizer), std::move(encoder), std::move(added),
                        std::move(before),     std::move(after),         std::move(table),   std::move(ids)};
}

}  // namespace pointsman
