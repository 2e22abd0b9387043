#include "memory/gate_groups.h"

#include <algorithm>

namespace pointsman {

bool IsGroupName(std::string_view name) {
  constexpr size_t kLongest = 80;
  const auto printable = [](char c) { return c >= ' ' && c <= '~' && c != '='; };
  return !name.empty() && name.size() <= kLongest && name.front() != ' ' && name.back() != ' ' &&
         std::ranges::all_of(name, printable);
}

std::vector<std::string> GroupNames(std::span<const GateGroup> groups) {
  std::vector<std::string> names;
  for (const GateGroup& group : groups) names.push_back(group.name);
  return names;
}

std::optional<size_t> GroupOfTags(std::span<const std::string> tags, std::span<const std::string> names) {
  if (names.size() == 1) return 0;
  for (const std::string& tag : tags) {
    const auto found = std::ranges::find(names, tag);
    if (found != names.end()) return static_cast<size_t>(found - names.begin());
  }
  return std::nullopt;
}

}  // namespace pointsman
