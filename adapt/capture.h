// What the frozen model shows while it reads the reference text: the router inputs of every MoE layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "adapt/objective.h"
#include "adapt/sequences.h"
#include "memory/key_transform.h"
#include "memory/result.h"
#include "models/loss_model.h"

namespace pointsman {

struct CaptureOptions {
  int threads = 1;
  std::function<void(uint64_t tokens)> on_progress = {};
  HookFactory routing = {};  // what routes meanwhile; empty: the frozen router
};

// hidden[layer] = [N, H] fp32, row first_row + t of each sequence (NumberRows first). Batch shapes depend on the
// sequences alone, so that the bits do not depend on the number of threads.
std::vector<at::Tensor> CaptureHidden(const LossModel& model, std::span<const Sequence> sequences,
                                      const CaptureOptions& options);

// One layer's keys: whitened, projected to `dim`, normalised. dim 0: raw hidden states, only normalised (the paper's).
struct LayerKeys {
  KeyTransform transform;  // empty vectors for raw keys
  at::Tensor keys;         // [N, D] fp32, unit length
};
Result<LayerKeys> MakeKeys(const at::Tensor& hidden, uint32_t dim);

// normalise(projection (h - mean)), differentiable; undefined mean or projection are skipped.
at::Tensor ProjectKeys(const at::Tensor& hidden, const at::Tensor& mean, const at::Tensor& projection);

}  // namespace pointsman
