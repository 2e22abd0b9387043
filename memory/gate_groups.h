// Groups of the context gate by name: what a name may be, and which group a document is of.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/routing_tables.h"

namespace pointsman {

// 1 to 80 printable ASCII characters, spaces only inside and no '=': a group is given as NAME=PATH.
bool IsGroupName(std::string_view name);

std::vector<std::string> GroupNames(std::span<const GateGroup> groups);

// The first of a document's tags that is one of `names`, the groups'; nullopt where none is. With one group it is that
// one, whatever the tags.
std::optional<size_t> GroupOfTags(std::span<const std::string> tags, std::span<const std::string> names);

}  // namespace pointsman
