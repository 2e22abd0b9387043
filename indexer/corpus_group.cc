#include "indexer/corpus_group.h"

#include <fmt/format.h>

#include <algorithm>

#include "memory/gate_groups.h"
#include "memory/one_line.h"

namespace pointsman {

Result<std::vector<CorpusGroup>> ParseCorpusGroups(const std::string& option, std::span<const std::string> values) {
  std::vector<CorpusGroup> groups;
  for (const std::string& value : values) {
    const size_t equals = std::min(value.find('='), value.size());
    const std::string name = value.substr(0, equals);
    if (name.empty() || equals + 1 >= value.size()) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("{} {}: use NAME=PATH, such as prose=docs/", option, OneLine(value))};
    }
    if (!IsGroupName(name)) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("{} {}: a name has 1 to 80 printable ASCII characters", option, OneLine(value))};
    }
    auto found = std::ranges::find(groups, name, &CorpusGroup::name);
    if (found == groups.end()) found = groups.insert(groups.end(), {name, {}});
    found->paths.push_back(value.substr(equals + 1));
  }
  return groups;
}

std::vector<std::string> GroupNames(std::span<const CorpusGroup> groups) {
  std::vector<std::string> names;
  for (const CorpusGroup& group : groups) names.push_back(group.name);
  return names;
}

}  // namespace pointsman
