// Trains a RoutingModule through the frozen model's own loss: Adam, linear decay, the best epoch on held-out text kept.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adapt/objective.h"
#include "adapt/routing_module.h"
#include "models/model.h"

namespace pointsman {

struct EpochReport {
  int epoch = 0;         // 0: before training
  double train_nll = 0;  // leave-one-out, mean over the epoch
  double held_out_nll = 0;
  double seconds = 0;
};

// Rows of unrelated text that the module is to leave alone: `weight` times the mean over rows and layers of the squared
// change of their logits is added to the loss. Their router inputs are the frozen model's, which stay right as far as
// the penalty works, so no forward pass is needed.
struct StillRows {
  std::vector<at::Tensor> hidden;  // [layer] = [N, H] fp32; empty: none
  at::Tensor ids;                  // [N] int64, the tokens
  double weight = 0;
  int64_t rows_per_step = 1024;  // drawn by seed and step
};

struct TrainOptions {
  int epochs = 6;
  int patience = 2;              // stop after this many epochs without a better held-out loss
  double noise = 0;              // of the logits at the start, falling with the rate; see ModuleHook::SetNoise
  uint32_t batch_sequences = 4;  // one step; split into shards of kShardSequences, gradients summed in order
  double beta2 = 0.999;
  uint64_t seed = 0;
  int threads = 1;
  const StillRows* still = nullptr;  // borrowed
  std::function<void(uint64_t tokens)> on_progress;
  std::function<void(const EpochReport&)> on_epoch;
};

inline constexpr uint32_t kShardSequences = 2;

struct TrainReport {
  double initial_nll = 0;  // held-out, before training
  double best_nll = 0;
  int best_epoch = 0;
  std::vector<EpochReport> epochs;
};

// Leaves the module with the parameters of its best epoch (epoch 0 = untrained, if nothing was better).
// The result depends on the inputs and the seed, not on `threads`.
TrainReport Train(const LossModel& model, RoutingModule& module, std::span<const Sequence> reference,
                  std::span<const Sequence> held_out, const TrainOptions& options);

// Full fine-tuning of a trainable clone with the same loop (the upper reference of the verdict).
TrainReport TrainWeights(MoeModel& clone, double learning_rate, std::span<const Sequence> reference,
                         std::span<const Sequence> held_out, const TrainOptions& options);

}  // namespace pointsman
