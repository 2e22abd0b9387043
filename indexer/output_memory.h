// Makes the output memory of a memory (router/output_vote.h): keys are the last hidden states of the reference tokens
// with the memory routing, values the tokens that followed. The reference documents fill it, the calibration documents
// choose tau, lambda and tau2 under the memory's gate, nothing of the test split is read.
#pragma once

#include <memory>
#include <span>

#include "adapt/sequences.h"
#include "indexer/reference_set.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"
#include "models/loss_model.h"

namespace pointsman {

struct OutputOptions {
  uint32_t key_dim = 64;  // whitened, int8
  int32_t neighbours = 64;
  int threads = 1;
};

// The output memory for the routing of `tables` (without layers: for the frozen router). The gate is left out while the
// keys are recorded: keys must not depend on a ramp that is still to be found. tau, lambda and tau2 are still to be
// chosen. Tokens that the model is not to learn to say (mask 0) have no key.
Result<OwnedOutput> MakeOutput(const LossModel& model, const ReferenceSet& set, const OwnedTables& tables,
                               const OutputOptions& options);

// What TuneOutput found, in nats per token of the held-out text: without votes and with the best.
struct OutputTuning {
  double before = 0;
  double after = 0;
};

// Sets tau, lambda and tau2 of tables.output to the best of a grid (tau: findings section 3) on `held_out`, under
// tables.gate; lambda 0 if no vote helps.
Result<OutputTuning> TuneOutput(const LossModel& model, std::span<const Sequence> held_out, OwnedTables& tables,
                                int threads);

// The same memory without its output part; shares the arrays.
std::shared_ptr<const RoutingTables> RoutingAlone(const std::shared_ptr<const RoutingTables>& tables);

}  // namespace pointsman
