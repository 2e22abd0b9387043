#include "models/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/tokenizer/tokenizer_parts.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {

struct Tokenizer::Impl : TokenizerParts {};

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::filesystem::path& tokenizer_json) {
  POINTSMAN_TRY(TokenizerParts parts, LoadTokenizerParts(tokenizer_json));
  auto impl = std::make_unique<Impl>(Impl{std::move(parts)});
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
