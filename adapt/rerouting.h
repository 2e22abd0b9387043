// Online rerouting (Rewiring Experts on the Fly, arXiv 2510.14853): one additive vector of router logits a MoE layer,
// the same for every token, learned from the context alone by a few steps on its own next-token loss.
//
// The paper leaves open: the sign of its layer confidence (both are here), the optimizer (two are here), and what
// "soft" does under a rule that ignores the gradient's scale (here it scales the step). With a memory, its change of
// each row counts as a constant: no gradient flows through what is retrieved.
//
// What lies below the lowest adapted layer does not depend on the vectors: it is computed once a call, and every step
// goes on from there, forward and backward. Contexts are independent: one that is adapted beside others gets the
// vectors that it gets alone, up to the rounding of batched products. Threads: everything runs on the calling thread;
// several may learn at once on one model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "adapt/rerouting_hooks.h"
#include "adapt/rerouting_options.h"
#include "adapt/sequences.h"
#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

struct Rerouted {
  VectorBatch vectors;
  std::vector<double> before;  // [B] nats per token of the context, with the start vectors
  std::vector<uint8_t> kept;   // [B] 0 where the guard fell back to the start
  int steps = 0;               // forward and backward passes of the last fit
};

class Rerouter {
 public:
  // `memory` (may be nullptr; borrowed) is what the vectors act beside; `slots` as in MoeModel::ForwardOptions.
  Rerouter(const MoeModel& model, RoutingHook* memory, std::vector<uint32_t> slots, const ReroutingOptions& options)
      : model_(model), memory_(memory), slots_(std::move(slots)), options_(options) {}

  // Learns the vectors of `contexts`, a batch as MakeBatch gives it; targets of weight 0 do not count. `start`, if not
  // empty, is where they begin (a session's vectors, or MeanRetrieved). With an empty `cache` the contexts' keys and
  // values below the lowest adapted layer are left there for Prefill. Errors: the memory's.
  Result<Rerouted> Learn(const Batch& contexts, const VectorBatch& start, KvCache* cache = nullptr);

  // The pass over the contexts of the last Learn with `vectors`: completes the cache that it was given and returns the
  // logits after the last token, [B, 1, V]. It costs what the layers from the lowest adapted one on cost. REQUIRES:
  // vectors as Learn returned them; contexts of one length.
  Result<at::Tensor> Prefill(const VectorBatch& vectors);

  // [B] nats per token of the contexts of the last Learn, with `vectors`. One pass. REQUIRES: as Prefill.
  Result<std::vector<double>> Losses(const VectorBatch& vectors);

 private:
  struct Gradients;
  void Begin(const Batch& contexts, const VectorBatch& start, const std::vector<at::Tensor>& confidence);
  Result<Gradients> Differentiate(const VectorBatch& vectors, const at::Tensor& weights);
  Result<Rerouted> Fit(const at::Tensor& weights);
  Result<Rerouted> FitGuarded();
  Result<at::Tensor> Score(const VectorBatch& vectors, const at::Tensor& weights);
  at::Tensor CutLogits(const VectorBatch& vectors) const;
  MoeModel::ForwardOptions Forward(RoutingHook* hook) const;

  const MoeModel& model_;
  ConstantHook memory_;
  std::vector<uint32_t> slots_;
  ReroutingOptions options_;
  // Of the last Learn.
  Batch contexts_;
  at::Tensor scales_;             // [B, L]: how far a step of each context and layer goes, 0..1
  std::vector<int64_t> adapted_;  // layers, ascending
  VectorBatch start_;             // defined at every layer
  VectorBatch below_;             // the start vectors below the lowest adapted layer
  MoeModel::Cut cut_;             // at the lowest adapted layer, without its vectors
  KvCache* cache_ = nullptr;
};

// Learns beside a memory of its own.
Result<Rerouted> Reroute(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory,
                         const VectorBatch& start, const ReroutingOptions& options);

// Each context's mean change by the memory over its tokens: the warm start.
Result<VectorBatch> MeanRetrieved(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory);

}  // namespace pointsman
