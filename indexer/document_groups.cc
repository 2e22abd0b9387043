#include "indexer/document_groups.h"

#include <fmt/format.h>

#include <optional>

#include "memory/gate_groups.h"

namespace pointsman {

Result<DocumentGroups> GroupsOf(std::span<const Document> documents, std::span<const std::string> names) {
  DocumentGroups groups;
  if (names.size() < 2) return groups;
  groups.names.assign(names.begin(), names.end());
  for (const Document& document : documents) {
    const std::optional<size_t> group = GroupOfTags(document.tags, names);
    if (!group) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("{}: none of its tags names a group; the groups are {}",
                                                            document.source, fmt::join(names, ", "))};
    }
    groups.of.push_back(static_cast<uint32_t>(*group));
  }
  return groups;
}

}  // namespace pointsman
