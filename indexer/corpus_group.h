// A named part of a corpus: the context gate of a memory has a group for it (memory/routing_tables.h, GateGroup).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct CorpusGroup {
  std::string name;                // its documents' tag
  std::vector<std::string> paths;  // files or folders
};

// From values of the form NAME=PATH, in the order of their first mention; a name that is given again has several paths.
// `option` is their flag, for errors. Errors: kInvalidArgument (another form, a name that cannot be a tag).
Result<std::vector<CorpusGroup>> ParseCorpusGroups(const std::string& option, std::span<const std::string> values);

std::vector<std::string> GroupNames(std::span<const CorpusGroup> groups);

}  // namespace pointsman
