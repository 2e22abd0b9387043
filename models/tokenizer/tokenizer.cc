#include "models/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "models/json_text.h"
#include "models/tokenizer/added_tokens.h"
#include "models/tokenizer/bpe.h"
#include "models/tokenizer/byte_alphabet.h"
#include "models/tokenizer/normalizer.h"
#include "models/tokenizer/pre_tokenizer.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

constexpr uint64_t kMaxFileBytes = 256ull << 20;

// Of one Encode call: words repeat, and merging costs more than a look-up.
using WordCache = std::unordered_map<std::string_view, std::vector<int32_t>>;

struct TokenEntry {
  std::string content;
  std::string bytes;  // what the token decodes to
  bool special = false;
};

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

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BytePairEncoder encoder;
  std::vector<AddedToken> added;
  AddedTokenFinder before_normalization, after_normalization;
  std::vector<TokenEntry> table;  // by id
  std::unordered_map<std::string, int32_t> ids;

  void EncodeText(std::string_view text, std::vector<int32_t>& out) const;
};

// Normalised text without added tokens.
void Tokenizer::Impl::EncodeText(std::string_view text, std::vector<int32_t>& out) const {
  std::deque<std::string> storage;
  WordCache cache;
  for (std::string_view word : pre_tokenizer.Split(text, storage)) {
    const auto [known, is_new] = cache.try_emplace(word);
    if (is_new) encoder.Encode(word, known->second);
    out.insert(out.end(), known->second.begin(), known->second.end());
  }
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::filesystem::path& tokenizer_json) {
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
  auto impl =
      std::make_unique<Impl>(Impl{std::move(normalizer), std::move(pre_tokenizer), std::move(encoder), std::move(added),
                                  std::move(before), std::move(after), std::move(table), std::move(ids)});
  return std::unique_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text) const {
  const std::string valid = ReplaceInvalidUtf8(text);
  std::vector<Piece> pieces, inner;
  impl_->before_normalization.Split(valid, pieces);
  std::vector<int32_t> out;
  out.reserve(valid.size() / 3);
  for (const Piece& piece : pieces) {
    if (piece.id >= 0) {
      out.push_back(piece.id);
      continue;
    }
    const std::string normalized = impl_->normalizer.Normalize(std::string(piece.text));
    inner.clear();
    impl_->after_normalization.Split(normalized, inner);
    for (const Piece& part : inner) {
      if (part.id >= 0) {
        out.push_back(part.id);
      } else {
        impl_->EncodeText(part.text, out);
      }
    }
  }
  return out;
}

namespace {

// The normalised text and which of its bytes are foreign. Parts are normalised on their own; where that differs from
// the whole (a mark that combines across an end), all of it counts as foreign.
std::string NormalizeGuarded(const Normalizer& normalizer, std::string_view text, const std::vector<bool>& foreign,
                             std::vector<bool>& after) {
  std::string parts;
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    while (end < text.size() && foreign[end] == foreign[at]) ++end;
    parts += normalizer.Normalize(std::string(text.substr(at, end - at)));
    after.resize(parts.size(), foreign[at]);
    at = end;
  }
  std::string whole = normalizer.Normalize(std::string(text));
  if (whole != parts) after.assign(whole.size(), true);
  return whole;
}

}  // namespace

std::vector<int32_t> Tokenizer::Encode(const MarkedText& marked, std::span<const int32_t> control) const {
  const std::string valid = ReplaceInvalidUtf8(marked.text);
  TokenGuard guard{.foreign = std::vector<bool>(valid.size()), .tokens = control};
  if (valid != marked.text) guard.foreign.assign(valid.size(), true);  // offsets moved: trust nothing
  for (const ByteRange& range : marked.plain) {
    for (size_t i = range.begin; i < std::min(range.end, valid.size()); ++i) guard.foreign[i] = true;
  }
  std::vector<Piece> pieces, inner;
  impl_->before_normalization.Split(valid, pieces, &guard);
  std::vector<int32_t> out;
  for (const Piece& piece : pieces) {
    if (piece.id >= 0) {
      out.push_back(piece.id);
      continue;
    }
    const auto offset = guard.foreign.begin() + (piece.text.data() - valid.data());
    const std::vector<bool> foreign(offset, offset + static_cast<ptrdiff_t>(piece.text.size()));
    TokenGuard after{.foreign = {}, .tokens = control};
    const std::string normalized = NormalizeGuarded(impl_->normalizer, piece.text, foreign, after.foreign);
    inner.clear();
    impl_->after_normalization.Split(normalized, inner, &after);
    for (const Piece& part : inner) {
      if (part.id >= 0) {
        out.push_back(part.id);
      } else {
        impl_->EncodeText(part.text, out);
      }
    }
  }
  return out;
}

std::vector<int32_t> Tokenizer::ControlTokens(std::string_view written) const {
  std::vector<int32_t> tokens;
  for (const AddedToken& token : impl_->added) {
    const bool space = token.content.find_first_not_of(" \t\r\n") == std::string::npos;
    if (token.special || (!space && written.find(token.content) != std::string_view::npos)) tokens.push_back(token.id);
  }
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || (skip_special && impl_->table[id].special)) continue;
    out += impl_->table[id].bytes;
  }
  return out;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->table.size()); }

// Strings go with their length in front: no content can imitate the structure.
std::string Tokenizer::CanonicalText() const {
  std::string out = "pointsman tokenizer 1\n";
  out += "normalizer\n" + impl_->normalizer.Canonical();
  out += "pre_tokenizer\n" + impl_->pre_tokenizer.Canonical();
  out += "vocabulary\n";
  for (const TokenEntry& entry : impl_->table) out += fmt::format("{} {}\n", entry.content.size(), entry.content);
  out += "added\n";
  std::vector<AddedToken> added = impl_->added;
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : added) {
    out += fmt::format("{} {} {} {} {}\n", token.id, token.normalized, token.lstrip, token.rstrip, token.single_word);
  }
  out += "merges\n" + impl_->encoder.Canonical();
  return out;
}

int32_t Tokenizer::TokenId(std::string_view token) const {
  const auto found = impl_->ids.find(std::string(token));
  return found == impl_->ids.end() ? -1 : found->second;
}

}  // namespace pointsman
