// The model's own loss, for scoring and for training: nats per next token.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "adapt/routing_module.h"
#include "adapt/sequences.h"
#include "models/loss_model.h"

namespace pointsman {

// A sequence's losses, one per token; 0 where the target does not count.
struct SequenceScore {
  std::vector<float> nll;          // [n]
  std::vector<uint8_t> untouched;  // [n]: 1 where no layer's logits, nor the output's, were changed by the hook
};

// Makes the hook for one batch, or returns nullptr for the frozen router. Called from several threads at once.
// `slots` may be filled with one router slot per sequence of the batch.
using HookFactory = std::function<std::unique_ptr<RoutingHook>(const Batch& batch, std::vector<uint32_t>* slots)>;

struct ScoreOptions {
  int threads = 1;
  uint32_t batch_sequences = 8;
  std::function<void(uint64_t tokens)> on_progress = {};  // called from worker threads
};

// Scores every sequence, in order. Batches depend on the sequences alone, so a sequence meets the same neighbours
// under every hook and thread count, and an untouched batch has the same bits as the frozen model's.
std::vector<SequenceScore> ScoreSequences(const LossModel& model, std::span<const Sequence> sequences,
                                          const HookFactory& hooks, const ScoreOptions& options);

// Mean nats per counted target over all scores.
double MeanNll(std::span<const Sequence> sequences, std::span<const SequenceScore> scores);

// [B, T] nats; differentiable with respect to what the hook adds.
at::Tensor TokenLosses(const LossModel& model, const Batch& batch, RoutingHook* hook,
                       const std::vector<uint32_t>& slots = {});

}  // namespace pointsman
