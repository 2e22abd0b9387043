// Online rerouting as a variant: each window is adapted to on its first half and scored on its second (design.md 8).
#pragma once

#include <span>
#include <vector>

#include "adapt/objective.h"
#include "adapt/rerouting.h"
#include "adapt/sequences.h"
#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

struct ReroutedScoring {
  ReroutingOptions rerouting;
  MemoryBinding memory;    // the vectors act beside it; without tables: beside the frozen router
  MemoryBinding warm;      // with tables: the vectors start at its mean retrieved change on the first half
  bool recompute = false;  // true: the second half sees keys and values made with the vectors (KV recompute)
  int threads = 1;
};

// The same windows with the losses of their first halves left out (mask 0); windows of one token are left out whole.
std::vector<Sequence> SecondHalves(std::span<const Sequence> sequences);

// Losses of the second halves, in order. `halves` as SecondHalves gave them; what their first halves' targets say is
// adapted to, masked or not in the corpus.
Result<std::vector<SequenceScore>> ScoreRerouted(const MoeModel& model, std::span<const Sequence> halves,
                                                 const ReroutedScoring& options);

}  // namespace pointsman
