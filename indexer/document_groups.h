// Which group of the context gate each document of a text is of (memory/routing_tables.h, GateGroup).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "adapt/sequences.h"
#include "memory/document.h"
#include "memory/result.h"

namespace pointsman {

struct DocumentGroups {
  std::vector<std::string> names{""};  // of the groups, in the gate's order
  std::vector<uint32_t> of;            // by Sequence::document; empty: all are of group 0

  uint32_t Of(const Sequence& s) const { return of.empty() ? 0 : of[s.document]; }
};

// By the documents' tags; without names, or with one, all are of one group. A document without a tag that names a group
// is kInvalidArgument.
Result<DocumentGroups> GroupsOf(std::span<const Document> documents, std::span<const std::string> names);

}  // namespace pointsman
