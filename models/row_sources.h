// Who stands behind one routed row: from the router's trace to documents, excerpts and experts, for `generate
// --explain` and the report of `eval`. Pure functions: any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "memory/routing_tables.h"
#include "models/document_texts.h"
#include "router/router.h"

namespace pointsman {

struct RowSource {
  std::string document = {};  // its name
  uint32_t position = 0;
  float similarity = 0;
  std::string excerpt = {};  // empty without text
};

// The neighbours of `row`, best first, as documents. A prototype explains itself by the entry that is nearest to it.
// `texts` may be null: no excerpts. Empty if the memory keeps no references.
std::vector<RowSource> SourcesOf(const RoutingTables& tables, const RowTrace& row, const DocumentTexts* texts);

// The model's own choice: the k largest logits, ties to the lower expert, most likely first.
std::vector<int64_t> TopExperts(std::span<const float> logits, int64_t k);
// Those of `experts` that are not among `others`, ascending.
std::vector<int64_t> Without(std::vector<int64_t> experts, std::span<const int64_t> others);

}  // namespace pointsman
