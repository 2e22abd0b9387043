#include "indexer/document_groups.h"

#include <fmt/format.h>

#include <algorithm>

namespace pointsman {

Result<DocumentGroups> GroupsOf(std::span<const Document> documents, std::span<const std::string> names) {
  DocumentGroups groups;
  if (names.size() < 2) return groups;
  groups.names.assign(names.begin(), names.end());
  for (const Document& document : documents) {
    const auto tag = std::ranges::find_first_of(document.tags, names);
    if (tag == document.tags.end()) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("{}: none of its tags names a group; the groups are {}",
                                                            document.source, fmt::join(names, ", "))};
    }
    groups.of.push_back(static_cast<uint32_t>(std::ranges::find(names, *tag) - names.begin()));
  }
  return groups;
}

}  // namespace pointsman
