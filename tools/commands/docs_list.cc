// pointsman docs list: the documents that a memory knows, from its truth.
#include <fmt/format.h>

#include <algorithm>

#include "memory/deletion.h"
#include "memory/document_id.h"
#include "memory/memory.h"
#include "tools/command.h"
#include "tools/document_text.h"

namespace pointsman {
namespace {

bool HasTag(const Document& document, const std::vector<std::string>& tags) {
  return tags.empty() || std::any_of(tags.begin(), tags.end(), [&](const std::string& tag) {
           return std::find(document.tags.begin(), document.tags.end(), tag) != document.tags.end();
         });
}

}  // namespace

Result<Output> RunDocsList(const Settings& settings) {
  POINTSMAN_TRY(const auto memory, Memory::Open(settings.Path("memory"), {}));
  POINTSMAN_TRY(const auto truth, memory->OpenTruth());
  const std::vector<std::string> tags = settings.Texts("tag");
  Output output{.json = {{"documents", nlohmann::json::array()}}, .text = {}, .exit_code = 0};
  output.text = fmt::format("{:<16}  {:<11}  {:>7}  {:<20}  {:<20}  {}\n", "document", "role", "tokens", "added",
                            "expires", "source [tags]");
  POINTSMAN_CHECK_OK(truth->ForEachDocument([&](const Document& document) -> Status {
    if (!HasTag(document, tags)) return {};
    output.json["documents"].push_back(DocumentJson(document));
    output.text +=
        fmt::format("{}  {:<11}  {:>7}  {:<20}  {:<20}  {}{}\n", DocumentIdText(document.hash),
                    SplitRoleText(document.role), document.tokens.size(), TimeText(document.added_unix_s),
                    document.expires_unix_s == 0 ? "never" : TimeText(document.expires_unix_s), document.source,
                    document.tags.empty() ? "" : fmt::format(" [{}]", fmt::join(document.tags, ", ")));
    return {};
  }));
  POINTSMAN_TRY(const std::vector<uint64_t> pending, PendingDeletions(*truth));
  if (!pending.empty()) {
    output.text +=
        fmt::format("a deletion of {} documents was interrupted: pointsman docs remove {} --expired ends it\n",
                    pending.size(), memory->directory().string());
  }
  return output;
}

}  // namespace pointsman
