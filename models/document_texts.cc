#include "models/document_texts.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

constexpr size_t kTokensBefore = 8;
constexpr size_t kTokensAfter = 4;

}  // namespace

DocumentTexts::DocumentTexts(const Tokenizer& tokenizer, std::span<const Document> documents) : tokenizer_(&tokenizer) {
  for (const Document& document : documents) {
    if (!document.tokens.empty()) tokens_[document.source] = document.tokens;
  }
}

Result<DocumentTexts> DocumentTexts::Load(EntryStore& store, const Tokenizer& tokenizer) {
  DocumentTexts texts(tokenizer, {});
  POINTSMAN_CHECK_OK(store.ForEachDocument([&](const Document& document) -> Status {
    if (!document.tokens.empty()) texts.tokens_[document.source] = document.tokens;
    return {};
  }));
  return texts;
}

std::string DocumentTexts::Around(std::string_view name, uint32_t position) const {
  const auto found = tokens_.find(name);
  if (found == tokens_.end() || position >= found->second.size()) return {};
  const std::span<const int32_t> tokens = found->second;
  const size_t end = position + size_t{1};
  const size_t begin = end - std::min(end, kTokensBefore);
  const size_t last = std::min(tokens.size(), end + kTokensAfter);
  return OneLine(tokenizer_->Decode(tokens.subspan(begin, end - begin), false)) + " | " +
         OneLine(tokenizer_->Decode(tokens.subspan(end, last - end), false));
}

std::string OneLine(const std::string& text) {
  std::string line;
  // nlohmann's serialiser replaces invalid UTF-8 and escapes control characters; the quotes around it go.
  line = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return line.substr(1, line.size() - 2);
}

}  // namespace pointsman
