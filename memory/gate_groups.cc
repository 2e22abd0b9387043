#include "memory/gate_groups.h"

#include <algorithm>

namespace pointsman {

std::optional<size_t> GateGroupOf(std::span<const std::string> tags, std::span<const GateGroup> groups) {
  if (groups.size() == 1) return 0;
  for (const std::string& tag : tags) {
    const auto found = std::ranges::find(groups, tag, &GateGroup::name);
    if (found != groups.end()) return static_cast<size_t>(found - groups.begin());
  }
  return std::nullopt;
}

}  // namespace pointsman
