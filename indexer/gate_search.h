// Finds the context gate of trained memories by measuring: the most open ramp whose damage on the calibration half of
// the unrelated text stays under a part of the bound (docs/decisions/002-damage-margin.md).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "indexer/calibrate.h"
#include "indexer/candidates.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/reference_set.h"
#include "memory/result.h"
#include "models/loss_model.h"

namespace pointsman {

struct GateSearchOptions {
  double damage_bound = 0.002;
  GateOptions gate = {};
  bool output_memory = false;  // each candidate gets an output memory first, and the search measures both
  uint64_t seed = 0;
  int threads = 1;
  std::function<void(const std::string& line)> say;  // one line for each ramp that was measured; may be empty
};

// Gives every candidate a gate of its own: the same token pairs, its own ramp. Where even the tightest ramp does
// damage, that one is set and `say` is told; the verdict then measures it. `learned` is unrelated text whose pairs are
// common, `unrelated` the part that calibrates. The result does not depend on `threads`.
Status SearchGates(const LossModel& model, const ReferenceSet& set, std::span<const Sequence> learned,
                   const ScoredText& unrelated, const GateSearchOptions& options, std::vector<Candidate>& candidates);

}  // namespace pointsman
