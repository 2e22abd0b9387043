// Examples for people: short passages of test documents with what the memory did to each token, and for a few tokens
// who stands behind it. Texts and names are bytes from documents: untrusted, not always UTF-8. Values only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "models/row_sources.h"

namespace pointsman {

// One token, or several that only together are whole characters.
struct PassageToken {
  std::string text = {};
  float frozen = 0;  // loss in nats, summed over its tokens
  float memory = 0;
  float gate = 0;  // G of the row that predicted it
  bool counted = true;
  float gain() const { return memory - frozen; }
};

struct ExpertChange {
  int32_t layer = 0;
  float confidence = 0;  // g
  std::vector<int64_t> gone = {}, come = {};
};

struct ExplainedToken {
  size_t token = 0;                        // index into Passage::tokens
  std::vector<ExpertChange> changes = {};  // layers where experts changed, ascending
  int32_t neighbours_layer = 0;            // the layer that changed most
  std::vector<RowSource> neighbours = {};  // of that layer, best first
};

enum class PassageRole : uint8_t { kBest, kMedian, kWorst, kUnrelated };

struct Passage {
  PassageRole role = PassageRole::kBest;
  std::string document = {};     // its name
  double document_gain = 0;      // memory minus frozen, nats per token of the whole document
  uint64_t document_tokens = 0;  // scored
  uint32_t position = 0;         // of the first token in the document
  std::vector<PassageToken> tokens = {};
  std::vector<ExplainedToken> explained = {};
};

}  // namespace pointsman
