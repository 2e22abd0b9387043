// Which group of the context gate a document belongs to: its tags say so.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "memory/routing_tables.h"

namespace pointsman {

// The first of `tags` that names a group; nullopt where none does. With one group it is that one, whatever the tags.
std::optional<size_t> GateGroupOf(std::span<const std::string> tags, std::span<const GateGroup> groups);

}  // namespace pointsman
