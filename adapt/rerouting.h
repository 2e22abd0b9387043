// Online rerouting (Rewiring Experts on the Fly, arXiv 2510.14853): one additive vector of router logits a MoE layer,
// the same for every token, learned from the context alone by a few Adam steps on its own next-token loss.
//
// The paper leaves open: the sign of its layer confidence (both are here), the optimiser (Adam), and what "soft" does
// under an optimiser that ignores the gradient's scale (here it scales the step). With a memory, its change of each row
// counts as a constant: no gradient flows through what is retrieved.
//
// Contexts are independent: one that is adapted beside others gets the vectors that it gets alone, up to the rounding
// of batched products. Threads: Reroute runs on the calling thread; several may run at once on one model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "adapt/rerouting_options.h"
#include "adapt/sequences.h"
#include "memory/result.h"
#include "models/model.h"
#include "models/router_hook.h"
#include "models/routing_hook.h"
#include "router/router.h"

namespace pointsman {

// The vectors of B contexts: [layer] = [B, E] fp32, or undefined where no context has one.
using VectorBatch = std::vector<at::Tensor>;

struct Rerouted {
  VectorBatch vectors;
  std::vector<double> before;  // [B] nats per token of the context, with the start vectors
  std::vector<uint8_t> kept;   // [B] 0 where the guard fell back to the start
  int steps = 0;               // forward and backward passes of the last fit
};

// What the vectors act beside: a memory bound to a slot a sequence, or nothing (tables == nullptr).
struct MemoryBinding {
  std::shared_ptr<const RoutingTables> tables;
  float strength = 1.0f;
};

// Learns the vectors of `contexts`, a batch as MakeBatch gives it; targets of weight 0 do not count. `start`, if not
// empty, is where they begin (a session's vectors, or MeanRetrieved). Errors: the router's.
Result<Rerouted> Reroute(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory,
                         const VectorBatch& start, const ReroutingOptions& options);

// Each context's mean change by the memory over its tokens: the warm start.
Result<VectorBatch> MeanRetrieved(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory);

// One context's vectors as the router takes them. REQUIRES: row < B.
SessionVectors SessionOf(const VectorBatch& vectors, int64_t row);

// Adds vectors to the logits after `inner` (may be nullptr; borrowed), for each sequence from its position `from` on
// (empty: from the start). Differentiable with respect to the vectors when gradients are recorded.
class VectorHook : public RoutingHook {
 public:
  VectorHook(RoutingHook* inner, const VectorBatch& vectors, std::vector<uint32_t> from = {})
      : inner_(inner), vectors_(vectors), from_(std::move(from)) {}
  void BeginStep(const StepInfo& step) override;
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override;
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return inner_ ? inner_->Output(hidden, logits) : logits;
  }
  Status status() const override { return inner_ ? inner_->status() : Status(); }

 private:
  RoutingHook* inner_;
  const VectorBatch& vectors_;
  std::vector<uint32_t> from_;  // [B] or empty
  int64_t batch_ = 0, length_ = 0;
  at::Tensor applies_;  // [rows, 1] fp32: 1 from `from` on, else 0; undefined for all ones
};

// A memory's change as a constant, for adaptation beside it: gradients pass through the logits that it is added to, not
// through the retrieval. One slot a sequence; without tables it changes nothing. The model is to be called with
// slots().
class ConstantMemory : public RoutingHook {
 public:
  ConstantMemory(const MemoryBinding& memory, int64_t sequences);
  const std::vector<uint32_t>& slots() const { return slots_; }
  void BeginStep(const StepInfo& step) override;
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override;
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override;
  Status status() const override { return hook_.status(); }

 private:
  Router router_;
  RouterHook hook_;
  bool votes_;  // the memory has an output part
  std::vector<uint32_t> slots_;
};

}  // namespace pointsman
