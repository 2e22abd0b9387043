#include "tools/document_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

namespace pointsman {
namespace {

constexpr size_t kTokensBefore = 8;
constexpr size_t kTokensAfter = 4;

}  // namespace

const char* SplitRoleText(SplitRole role) {
  switch (role) {
    case SplitRole::kReference:
      return "reference";
    case SplitRole::kCalibration:
      return "calibration";
    case SplitRole::kTest:
      return "test";
  }
  return "unknown";
}

nlohmann::json DocumentJson(const Document& document) {
  return {{"document", fmt::format("{:016x}", document.hash)},
          {"source", document.source},
          {"sha256", document.sha256},
          {"cluster", fmt::format("{:016x}", document.cluster)},
          {"role", SplitRoleText(document.role)},
          {"tokens", document.tokens.size()},
          {"tags", document.tags},
          {"added_unix_s", document.added_unix_s}};
}

Result<DocumentTexts> DocumentTexts::Load(EntryStore& store, const Tokenizer& tokenizer) {
  DocumentTexts texts(tokenizer);
  POINTSMAN_CHECK_OK(store.ForEachDocument([&](const Document& document) -> Status {
    if (!document.tokens.empty()) texts.tokens_[document.source] = document.tokens;
    return {};
  }));
  return texts;
}

std::string DocumentTexts::Around(const std::string& name, uint32_t position) const {
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
