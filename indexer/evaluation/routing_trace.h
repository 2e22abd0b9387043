// What a memory did to routing, row by row: a forward pass with the router's trace, beside the scoring pass that only
// keeps losses.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "adapt/sequences.h"
#include "memory/manifest.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/loss_model.h"
#include "router/router.h"

namespace pointsman {

// The router's trace of every row of one sequence, by layer, then row (RowTrace::row = position in the sequence).
Result<std::vector<RowTrace>> TraceSequence(const LossModel& model, const std::shared_ptr<const RoutingTables>& tables,
                                            const Sequence& sequence);

struct LayerTally {
  int32_t layer = 0;
  uint64_t tokens = 0;
  uint64_t changed_tokens = 0;   // at least one expert is another one
  uint64_t changed_experts = 0;  // summed over tokens
  uint64_t open_tokens = 0;      // G > 0
  double confidence_sum = 0;     // of g, over open tokens
  double weight_sum = 0;         // of G g
  double similarity_sum = 0;     // of the nearest key, over open tokens
};

struct RoutingTally {
  std::vector<LayerTally> layers;     // ascending
  std::vector<double> gate_sum;       // [position in the window] of G
  std::vector<uint64_t> gate_tokens;  // [position in the window]
  uint64_t tokens = 0;
};

struct TallyOptions {
  uint64_t max_tokens = 16'384;  // sequences are left out evenly beyond that: a trace costs a forward pass
  int threads = 1;
};

// Tokens whose target does not count are left out. The same for any number of threads.
Result<RoutingTally> TallyRouting(const LossModel& model, const std::shared_ptr<const RoutingTables>& tables,
                                  std::span<const Sequence> sequences, const TallyOptions& options);

// The tally as means over tokens and layers, for the manifest.
RoutingSignal SignalOf(const RoutingTally& tally);

}  // namespace pointsman
