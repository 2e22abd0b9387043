// pointsman docs list: the documents that a memory knows, from its truth.
#include <fmt/format.h>

#include "memory/memory.h"
#include "tools/command.h"
#include "tools/document_text.h"

namespace pointsman {

Result<Output> RunDocsList(const Settings& settings) {
  POINTSMAN_TRY(const auto memory, Memory::Open(settings.Path("memory"), {}));
  POINTSMAN_TRY(const auto truth, memory->OpenTruth());
  Output output{.json = {{"documents", nlohmann::json::array()}}, .text = {}, .exit_code = 0};
  output.text = fmt::format("{:<16}  {:<11}  {:>7}  {}\n", "document", "role", "tokens", "source");
  POINTSMAN_CHECK_OK(truth->ForEachDocument([&](const Document& document) -> Status {
    output.json["documents"].push_back(DocumentJson(document));
    output.text += fmt::format("{:016x}  {:<11}  {:>7}  {}\n", document.hash, SplitRoleText(document.role),
                               document.tokens.size(), document.source);
    return {};
  }));
  return output;
}

}  // namespace pointsman
