#include "tools/document_text.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "memory/document_id.h"

namespace pointsman {

std::string TimeText(int64_t unix_s) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_s)));
}

nlohmann::json DocumentJson(const Document& document) {
  return {
      {"document", DocumentIdText(document.hash)},
      {"source", document.source},
      {"sha256", document.sha256},
      {"cluster", DocumentIdText(document.cluster)},
      {"role", SplitRoleText(document.role)},
      {"tokens", document.tokens.size()},
      {"tags", document.tags},
      {"added_unix_s", document.added_unix_s},
      {"expires_unix_s", document.expires_unix_s == 0 ? nlohmann::json() : nlohmann::json(document.expires_unix_s)}};
}

}  // namespace pointsman
