// What learned vectors act through, and what they act beside.
//
// Threads: a hook serves one forward pass at a time; different hooks are independent.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "memory/routing_tables.h"
#include "models/router_hook.h"
#include "models/routing_hook.h"
#include "router/router.h"

namespace pointsman {

// The vectors of B contexts: [layer] = [B, E] fp32, or undefined where no context has one.
using VectorBatch = std::vector<at::Tensor>;

// What the vectors act beside: a memory bound to a slot a sequence, or nothing (tables == nullptr).
struct MemoryBinding {
  std::shared_ptr<const RoutingTables> tables;
  float strength = 1.0f;
};

// A context's vector for each of its tokens: [B, E] -> [rows, E]. REQUIRES: B divides rows.
at::Tensor RowsOf(const at::Tensor& vectors, int64_t rows);

// Adds vectors to the logits after `inner` (may be nullptr; borrowed), for each sequence from its position `from` on
// (empty: from the start), before `until` (empty: to the end). Differentiable with respect to the vectors when
// gradients are recorded.
class VectorHook : public RoutingHook {
 public:
  VectorHook(RoutingHook* inner, const VectorBatch& vectors, std::vector<uint32_t> from = {},
             std::vector<uint32_t> until = {})
      : inner_(inner), vectors_(vectors), from_(std::move(from)), until_(std::move(until)) {}
  void BeginStep(const StepInfo& step) override;
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override;
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return inner_ ? inner_->Output(hidden, logits) : logits;
  }
  Status status() const override { return inner_ ? inner_->status() : Status(); }

 private:
  RoutingHook* inner_;
  const VectorBatch& vectors_;
  std::vector<uint32_t> from_, until_;  // [B] or empty
  at::Tensor applies_;                  // [rows, 1] fp32: 1 where the vectors act, else 0; undefined for all ones
};

// What `inner` (may be nullptr: nothing; borrowed) changes counts as a constant: gradients pass through the logits that
// it is added to, not through how it came about.
class ConstantHook : public RoutingHook {
 public:
  explicit ConstantHook(RoutingHook* inner) : inner_(inner) {}
  void BeginStep(const StepInfo& step) override;
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override;
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override;
  Status status() const override { return inner_ ? inner_->status() : Status(); }

 private:
  RoutingHook* inner_;
};

// A memory of its own for B sequences, one slot each; without tables it changes nothing. The model is to be called with
// slots().
class ConstantMemory : public RoutingHook {
 public:
  ConstantMemory(const MemoryBinding& memory, int64_t sequences);
  const std::vector<uint32_t>& slots() const { return slots_; }
  void BeginStep(const StepInfo& step) override { constant_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    return constant_.Route(layer, hidden, logits);
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return votes_ ? constant_.Output(hidden, logits) : logits;
  }
  Status status() const override { return hook_.status(); }

 private:
  Router router_;
  RouterHook hook_;
  ConstantHook constant_;
  bool votes_;  // the memory has an output part
  std::vector<uint32_t> slots_;
};

// One context's vectors as the router takes them, and back as a batch of one. REQUIRES: row < B.
SessionVectors SessionOf(const VectorBatch& vectors, int64_t row);
VectorBatch VectorsOf(const SessionVectors& session);

}  // namespace pointsman
