// Online rerouting as a variant: each window is adapted to on its first part and scored on the rest, as generation
// would have it: the vectors act from the first token on, and are learned anew every `interval` scored tokens
// (design.md 8).
#pragma once

#include <cstdint>
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
  MemoryBinding memory;     // the vectors act beside it; without tables: beside the frozen router
  MemoryBinding warm;       // with tables: the vectors start at its mean retrieved change on the context
  uint32_t context = 0;     // tokens to learn from; 0 = half of the window
  uint32_t interval = 128;  // scored tokens after which the vectors are learned again, from all text so far
  bool recompute =
      false;  // true: scored tokens see keys and values made with the newest vectors, not those of their day
  int threads = 1;
};

// The same windows with the losses of their contexts left out (mask 0), and those beyond `scored` tokens after it
// (0 = all); windows that end within their context are left out whole.
std::vector<Sequence> AfterContext(std::span<const Sequence> sequences, uint32_t context = 0, uint32_t scored = 0);

// Losses after the contexts, in order. `windows` as AfterContext gave them for the same `context`; what the contexts'
// targets say is adapted to, masked or not in the corpus.
Result<std::vector<SequenceScore>> ScoreRerouted(const MoeModel& model, std::span<const Sequence> windows,
                                                 const ReroutedScoring& options);

}  // namespace pointsman
