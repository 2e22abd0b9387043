#include "adapt/rerouting_hooks.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace pointsman {

at::Tensor RowsOf(const at::Tensor& vectors, int64_t rows) {
  const int64_t batch = vectors.size(0), experts = vectors.size(1);
  return vectors.unsqueeze(1).expand({batch, rows / batch, experts}).reshape({rows, experts});
}

void VectorHook::BeginStep(const StepInfo& step) {
  if (!from_.empty() || !until_.empty()) {
    const auto rows = static_cast<int64_t>(step.positions.size());
    const int64_t length = rows / static_cast<int64_t>(std::max(from_.size(), until_.size()));
    applies_ = at::ones({rows, 1}, at::kFloat);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t b = row / length;
      const bool early = !from_.empty() && step.positions[row] < from_[b];
      const bool late = !until_.empty() && step.positions[row] >= until_[b];
      if (early || late) applies_.data_ptr<float>()[row] = 0;
    }
  }
  if (inner_) inner_->BeginStep(step);
}

at::Tensor VectorHook::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  const at::Tensor routed = inner_ ? inner_->Route(layer, hidden, logits) : logits;
  if (layer >= static_cast<int>(vectors_.size()) || !vectors_[layer].defined()) return routed;
  const at::Tensor rows = RowsOf(vectors_[layer], logits.size(0));
  return routed + (applies_.defined() ? rows * applies_ : rows);
}

void ConstantHook::BeginStep(const StepInfo& step) {
  if (inner_) inner_->BeginStep(step);
}

at::Tensor ConstantHook::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  if (!inner_) return logits;
  if (!at::GradMode::is_enabled()) return inner_->Route(layer, hidden, logits);
  const at::NoGradGuard no_grad;
  const at::Tensor frozen = logits.detach();
  const at::Tensor change = inner_->Route(layer, hidden.detach(), frozen.clone()) - frozen;
  const at::AutoGradMode with_grad(true);
  return logits + change;
}

at::Tensor ConstantHook::Output(const at::Tensor& hidden, const at::Tensor& logits) {
  if (!inner_) return logits;
  if (!at::GradMode::is_enabled()) return inner_->Output(hidden, logits);
  const at::NoGradGuard no_grad;
  const at::Tensor frozen = logits.detach();
  const at::Tensor change = inner_->Output(hidden.detach(), frozen.clone()) - frozen;
  const at::AutoGradMode with_grad(true);
  return logits + change;
}

ConstantMemory::ConstantMemory(const MemoryBinding& memory, int64_t sequences)
    : hook_(router_),
      constant_(memory.tables ? &hook_ : nullptr),
      votes_(memory.tables && memory.tables->output.enabled) {
  for (int64_t i = 0; i < sequences && memory.tables; ++i) {
    Binding binding;
    binding.tables = memory.tables;
    binding.strength = memory.strength;
    slots_.push_back(router_.AddSlot(std::move(binding)));
  }
}

SessionVectors SessionOf(const VectorBatch& vectors, int64_t row) {
  SessionVectors session;
  for (const at::Tensor& layer : vectors) {
    session.by_layer.emplace_back();
    if (!layer.defined()) continue;
    const at::Tensor values = layer.select(0, row).contiguous();
    session.by_layer.back().assign(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
  }
  return session;
}

VectorBatch VectorsOf(const SessionVectors& session) {
  VectorBatch vectors;
  for (const std::vector<float>& layer : session.by_layer) {
    vectors.emplace_back();
    if (layer.empty()) continue;
    vectors.back() = at::empty({1, static_cast<int64_t>(layer.size())}, at::kFloat);
    std::copy(layer.begin(), layer.end(), vectors.back().data_ptr<float>());
  }
  return vectors;
}

}  // namespace pointsman
