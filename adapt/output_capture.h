// What the model shows at its output while it reads text with a memory routing it: the last hidden states (after the
// final norm, what the output layer reads). They are the keys and the queries of an output memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <vector>

#include "adapt/capture.h"
#include "adapt/sequences.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/loss_model.h"

namespace pointsman {

struct OutputCapture {
  at::Tensor hidden;        // [N, H] fp32
  std::vector<float> gate;  // [N] G; 1 for tables without a gate
  std::vector<float> nll;   // [N] nats of each target by the model alone; 0 where the target does not count
};

// Row first_row + t of each sequence (NumberRows first). `tables` route, one slot a sequence; an output memory in them
// stays silent. Batches depend on the sequences alone: the same bits for any number of threads. Errors: the router's.
Result<OutputCapture> CaptureOutput(const LossModel& model, std::span<const Sequence> sequences,
                                    const std::shared_ptr<const RoutingTables>& tables, const CaptureOptions& options);

}  // namespace pointsman
