// Each token's own best router logits: a free vector per (token, layer), a few joint Adam steps on the summed loss.
// On reference text these are the values of the paper's memory (kNN-MoE: "token-wise"); on test text, labels seen, they
// are the oracle: what routing could gain at all.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

#include "adapt/objective.h"
#include "models/loss_model.h"

namespace pointsman {

struct TokenValueOptions {
  int steps = 5;
  double rate = 0.3;        // Adam; findings section 1, "5 Adam steps"
  int layer = -1;           // -1: all layers together; else this one alone
  bool keep_values = true;  // false: only the losses (the oracle)
  bool score_after = true;  // false: only the values; saves a forward pass
  int threads = 1;
  std::function<void(uint64_t tokens)> on_progress;
};

struct TokenValues {
  std::vector<at::Tensor> values;     // [layer] = [N, E] fp32, rows as NumberRows gave them; empty without keep_values
  std::vector<SequenceScore> before;  // frozen
  std::vector<SequenceScore> after;   // with the optimised logits; empty scores without score_after
};

// REQUIRES: NumberRows was called on `sequences`.
TokenValues OptimizeTokenValues(const LossModel& model, std::span<const Sequence> sequences,
                                const TokenValueOptions& options);

}  // namespace pointsman
