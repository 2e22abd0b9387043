// What training, calibration and scoring need of a model: its sizes and names, and the loss of given text while a hook
// routes. MoeModel is one in this process, adapt/hosted_model.h one in another.
//
// All functions are const and may be called from several threads at once, each with its own hook.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "memory/manifest.h"
#include "memory/result.h"
#include "models/config.h"
#include "models/routing_hook.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

class LossModel {
 public:
  virtual ~LossModel() = default;

  virtual const MoeConfig& config() const = 0;
  virtual const Fingerprint& fingerprint() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;

  // ids, targets [B, T] int64 -> nats of every target [B, T] fp32, differentiable with respect to what the hook adds.
  // hook nullptr: frozen. slots [B]: router slot of each sequence; empty = all 0. targets undefined: only the routers
  // are wanted: no output layer, nothing returned. REQUIRES: T <= max_positions, ids and targets in 0..V-1.
  virtual at::Tensor Losses(const at::Tensor& ids, const at::Tensor& targets, RoutingHook* hook,
                            const std::vector<uint32_t>& slots) const = 0;

  // Whether all experts of every layer hold the same weights: then it does not matter which of them a token takes.
  virtual bool ExpertsAreEqual() const = 0;

  // The number that a memory knows MoE layer `index` (0..config().num_layers-1) by: its place among all layers of the
  // model, dense ones included.
  virtual int LayerNumber(int index) const { return index; }

  // The first failure of the process that computes, if that is another one: losses are 0 from then on. Asked after
  // each stage of a job.
  virtual Status status() const { return {}; }
};

}  // namespace pointsman
