#include "models/tokenizer/marked_encoder.h"

#include <algorithm>

#include "models/tokenizer/tokenizer_parts.h"
#include "models/tokenizer/unicode.h"

namespace pointsman {
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

struct MarkedEncoder::Impl {
  TokenizerParts parts;
  std::vector<int32_t> control;  // ascending
};

MarkedEncoder::MarkedEncoder(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
MarkedEncoder::~MarkedEncoder() = default;

Result<std::unique_ptr<const MarkedEncoder>> MarkedEncoder::Load(const std::filesystem::path& tokenizer_json,
                                                                 std::string_view written,
                                                                 const std::vector<std::string>& control) {
  POINTSMAN_TRY(TokenizerParts parts, LoadTokenizerParts(tokenizer_json));
  std::vector<int32_t> ids;
  for (const AddedToken& token : parts.added) {
    const bool space = token.content.find_first_not_of(" \t\r\n") == std::string::npos;
    const bool named = std::find(control.begin(), control.end(), token.content) != control.end();
    if (token.special || named || (!space && written.find(token.content) != std::string_view::npos)) {
      ids.push_back(token.id);
    }
  }
  std::sort(ids.begin(), ids.end());
  auto impl = std::make_unique<Impl>(Impl{std::move(parts), std::move(ids)});
  return std::unique_ptr<const MarkedEncoder>(new MarkedEncoder(std::move(impl)));
}

std::vector<int32_t> MarkedEncoder::Encode(const MarkedText& marked) const {
  const TokenizerParts& parts = impl_->parts;
  const std::string valid = ReplaceInvalidUtf8(marked.text);
  TokenGuard guard{.foreign = std::vector<bool>(valid.size()), .tokens = impl_->control};
  if (valid != marked.text) guard.foreign.assign(valid.size(), true);  // offsets moved: trust nothing
  for (const ByteRange& range : marked.plain) {
    for (size_t i = range.begin; i < std::min(range.end, valid.size()); ++i) guard.foreign[i] = true;
  }
  std::vector<Piece> pieces, inner;
  parts.before_normalization.Split(valid, pieces, &guard);
  std::vector<int32_t> out;
  for (const Piece& piece : pieces) {
    if (piece.id >= 0) {
      out.push_back(piece.id);
      continue;
    }
    const auto offset = guard.foreign.begin() + (piece.text.data() - valid.data());
    const std::vector<bool> foreign(offset, offset + static_cast<ptrdiff_t>(piece.text.size()));
    TokenGuard after{.foreign = {}, .tokens = impl_->control};
    const std::string normalized = NormalizeGuarded(parts.normalizer, piece.text, foreign, after.foreign);
    inner.clear();
    parts.after_normalization.Split(normalized, inner, &after);
    for (const Piece& part : inner) {
      if (part.id >= 0) {
        out.push_back(part.id);
      } else {
        parts.EncodeText(part.text, out);
      }
    }
  }
  return out;
}

}  // namespace pointsman
