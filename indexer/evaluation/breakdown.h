// Where a memory helps: test tokens in groups, and what happened at each layer. Values only, filled by examination.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "indexer/evaluation/statistics.h"

namespace pointsman {

// A group of scored test tokens under frozen and memory. Nats per token.
struct BreakdownRow {
  std::string by = {};    // what tells the groups apart: "extension", "text", "position", ...
  std::string name = {};  // untrusted where it comes from documents
  uint64_t documents = 0;
  uint64_t tokens = 0;
  double frozen_nll = 0;
  double memory_nll = 0;
  double gain = 0;                    // memory minus frozen
  std::optional<Interval> ci95 = {};  // of the gain, clustered by document; absent for a single cluster
  std::optional<double> gate = {};    // mean G of the tokens' rows (positions)
};

struct LayerRow {
  int32_t layer = 0;
  double changed_tokens = 0;   // 0..1: at least one of the k experts is another one
  double changed_experts = 0;  // mean number of experts that are others, over all tokens
  double confidence = 0;       // mean g over tokens whose gate is not shut
};

struct Breakdown {
  std::vector<BreakdownRow> kinds = {};      // by extension, folder, file
  std::vector<BreakdownRow> classes = {};    // by text; by repetition (the token stood in the document before, or not)
  std::vector<BreakdownRow> positions = {};  // in the window
  std::vector<LayerRow> layers = {};
  uint64_t traced_tokens = 0;  // that `layers` and `gate` were measured on: a sample of the test split
};

}  // namespace pointsman
