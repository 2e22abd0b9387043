#include "adapt/rerouting.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "adapt/adam.h"
#include "adapt/objective.h"
#include "models/router_hook.h"

namespace pointsman {
namespace {

struct ContextStatistics {
  std::vector<at::Tensor> change;      // [layer] = [B, E]: mean over the context's tokens
  std::vector<at::Tensor> confidence;  // [layer] = [B, 1]: mean of log p over tokens and selected experts
};

class StatisticsHook : public RoutingHook {
 public:
  StatisticsHook(RoutingHook& inner, const MoeConfig& config, const Batch& batch, ContextStatistics* result)
      : inner_(inner), config_(config), weights_(batch.weights), result_(result) {}
  void BeginStep(const StepInfo& step) override { inner_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const at::Tensor before = logits.clone();
    at::Tensor after = inner_.Route(layer, hidden, logits);
    const int64_t batch = weights_.size(0), length = weights_.size(1);
    result_->change.push_back(Mean((after - before).view({batch, length, -1})));
    const at::Tensor best =
        std::get<0>(after.log_softmax(-1).topk(config_.experts_per_token, -1)).mean(-1, /*keepdim=*/true);
    result_->confidence.push_back(Mean(best.view({batch, length, 1})));
    return after;
  }
  Status status() const override { return inner_.status(); }

 private:
  at::Tensor Mean(const at::Tensor& rows) const {  // [B, T, X] -> [B, X]
    const at::Tensor w = weights_.unsqueeze(-1);
    return (rows * w).sum(1) / w.sum(1).clamp_min(1);
  }

  RoutingHook& inner_;
  const MoeConfig& config_;
  at::Tensor weights_;  // [B, T]: padding and uncounted targets are 0
  ContextStatistics* result_;
};

// How far a step of each (context, layer) goes: 1, 0, or between when soft. [B, L].
at::Tensor StepScales(const std::vector<at::Tensor>& confidence, const ReroutingOptions& options, int64_t batch,
                      int64_t layers) {
  at::Tensor scales = at::ones({batch, layers}, at::kFloat);
  if (options.layers == ReroutedLayers::kAll) return scales;
  const int64_t count = options.layer_count > 0 ? std::min<int64_t>(options.layer_count, layers) : (layers + 1) / 2;
  if (options.layers == ReroutedLayers::kLast) {
    scales.narrow(1, 0, layers - count).zero_();
    return scales;
  }
  at::Tensor order = at::cat(confidence, 1);
  if (options.layers == ReroutedLayers::kLeastConfident) order = -order;
  if (options.soft) return order.softmax(1) / std::get<0>(order.softmax(1).max(1, /*keepdim=*/true));
  scales.zero_();
  return scales.scatter_(1, std::get<1>(order.topk(count, 1)), 1.0);
}

// [B] mean nats per counted target.
at::Tensor MeanLosses(const at::Tensor& losses, const at::Tensor& weights) {
  return losses.sum(1) / weights.sum(1).clamp_min(1);
}

Batch WithWeights(const Batch& batch, const at::Tensor& weights) {
  Batch result = batch;
  result.weights = weights;
  return result;
}

class Fit {
 public:
  Fit(const MoeModel& model, const MemoryBinding& memory, const VectorBatch& start, const ReroutingOptions& options,
      at::Tensor scales)
      : model_(model), memory_(memory), start_(start), options_(options), scales_(std::move(scales)) {}

  Result<Rerouted> Run(const Batch& batch) const {
    const int64_t layers = model_.config().num_layers, sequences = batch.ids.size(0);
    Rerouted result;
    result.vectors = Start(sequences);
    std::vector<at::Tensor> leaves;
    std::vector<Parameter> parameters;
    std::vector<int64_t> adapted;
    for (int64_t layer = 0; layer < layers; ++layer) {
      if (scales_.select(1, layer).abs().max().item<float>() == 0) continue;
      adapted.push_back(layer);
      leaves.push_back(result.vectors[layer].set_requires_grad(true));
      parameters.push_back({"rerouting", leaves.back(), options_.rate});
    }
    Adam adam(parameters);
    at::Tensor done = at::zeros({sequences, 1}, at::kFloat), last;
    std::vector<at::Tensor> previous(leaves.size());
    for (int step = 0; step < options_.steps; ++step) {
      ConstantMemory memory(memory_, sequences);
      VectorHook hook(&memory, result.vectors);
      at::Tensor losses;
      std::vector<at::Tensor> gradients;
      {
        c10::AutoGradMode with_grad(true);
        losses = MeanLosses(TokenLosses(model_, batch, &hook, memory.slots()), batch.weights);
        POINTSMAN_CHECK_OK(hook.status());
        gradients = torch::autograd::grad({losses.sum()}, leaves, {}, std::nullopt, false, true);
      }
      c10::AutoGradMode no_grad(false);
      const at::Tensor now = losses.detach().unsqueeze(1);
      if (step == 0) CopyTo(now, &result.before);
      if (step > 0 && options_.stop_when_worse) {
        const at::Tensor back = (now > last).to(at::kFloat) * (1 - done);
        for (size_t i = 0; i < leaves.size(); ++i) {
          leaves[i].copy_(at::where(back > 0, previous[i], leaves[i]));
        }
        done = done + back;
        if (done.min().item<float>() > 0) break;
      }
      last = now;
      ++result.steps;
      for (size_t i = 0; i < leaves.size(); ++i) previous[i] = leaves[i].detach().clone();
      adam.Step(gradients, 1.0);
      for (size_t i = 0; i < leaves.size(); ++i) {
        const at::Tensor scale = scales_.select(1, adapted[i]).unsqueeze(1) * (1 - done);
        leaves[i].copy_(previous[i] + scale * (leaves[i] - previous[i]));
      }
    }
    for (at::Tensor& leaf : leaves) leaf.set_requires_grad(false);
    result.kept.assign(sequences, 1);
    return result;
  }

  // [B] mean nats per counted target with `vectors`.
  Result<at::Tensor> Score(const Batch& batch, const VectorBatch& vectors) const {
    c10::AutoGradMode no_grad(false);
    ConstantMemory memory(memory_, batch.ids.size(0));
    VectorHook hook(&memory, vectors);
    const at::Tensor losses = MeanLosses(TokenLosses(model_, batch, &hook, memory.slots()), batch.weights);
    POINTSMAN_CHECK_OK(hook.status());
    return losses;
  }

  // A copy of the start vectors, zeros where there are none.
  VectorBatch Start(int64_t sequences) const {
    VectorBatch vectors;
    for (int64_t layer = 0; layer < model_.config().num_layers; ++layer) {
      const bool given = layer < static_cast<int64_t>(start_.size()) && start_[layer].defined();
      vectors.push_back(given ? start_[layer].detach().clone()
                              : at::zeros({sequences, model_.config().num_experts}, at::kFloat));
    }
    return vectors;
  }

 private:
  static void CopyTo(const at::Tensor& column, std::vector<double>* to) {
    for (int64_t b = 0; b < column.size(0); ++b) to->push_back(column[b][0].item<double>());
  }

  const MoeModel& model_;
  const MemoryBinding& memory_;
  const VectorBatch& start_;
  const ReroutingOptions& options_;
  at::Tensor scales_;
};

Result<Rerouted> Guarded(const Fit& fit, const Batch& contexts, const ReroutingOptions& options) {
  const at::Tensor counted = contexts.weights.cumsum(1);
  const at::Tensor head = contexts.weights * (counted <= 0.75 * contexts.weights.sum(1, /*keepdim=*/true));
  const Batch tail = WithWeights(contexts, contexts.weights - head);
  POINTSMAN_TRY(const Rerouted tried, fit.Run(WithWeights(contexts, head)));
  const VectorBatch start = fit.Start(contexts.ids.size(0));
  POINTSMAN_TRY(const at::Tensor before, fit.Score(tail, start));
  POINTSMAN_TRY(const at::Tensor after, fit.Score(tail, tried.vectors));
  POINTSMAN_TRY(Rerouted result, fit.Run(contexts));
  const at::Tensor keep = (after < before - options.guard_margin).unsqueeze(1);  // false for NaN
  for (size_t layer = 0; layer < start.size(); ++layer) {
    result.vectors[layer] = at::where(keep, result.vectors[layer], start[layer]);
  }
  for (int64_t b = 0; b < keep.size(0); ++b) result.kept[b] = keep[b][0].item<bool>();
  return result;
}

// One pass over the contexts with the memory alone.
Status Observe(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory, ContextStatistics* result) {
  c10::AutoGradMode no_grad(false);
  ConstantMemory constant(memory, contexts.ids.size(0));
  StatisticsHook hook(constant, model.config(), contexts, result);
  MoeModel::ForwardOptions forward;
  forward.hook = &hook;
  forward.slots = constant.slots();
  model.Forward(contexts.ids, forward);
  return hook.status();
}

}  // namespace

Result<Rerouted> Reroute(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory,
                         const VectorBatch& start, const ReroutingOptions& options) {
  ContextStatistics statistics;
  if (options.layers == ReroutedLayers::kMostConfident || options.layers == ReroutedLayers::kLeastConfident) {
    POINTSMAN_CHECK_OK(Observe(model, contexts, memory, &statistics));
  }
  const Fit fit(model, memory, start, options,
                StepScales(statistics.confidence, options, contexts.ids.size(0), model.config().num_layers));
  return options.guard ? Guarded(fit, contexts, options) : fit.Run(contexts);
}

Result<VectorBatch> MeanRetrieved(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory) {
  ContextStatistics statistics;
  POINTSMAN_CHECK_OK(Observe(model, contexts, memory, &statistics));
  return std::move(statistics.change);
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

void VectorHook::BeginStep(const StepInfo& step) {
  batch_ = step.batch;
  length_ = step.length;
  if (!from_.empty()) {
    applies_ = at::ones({batch_ * length_, 1}, at::kFloat);
    for (int64_t row = 0; row < batch_ * length_; ++row) {
      if (step.positions[row] < from_[row / length_]) applies_.data_ptr<float>()[row] = 0;
    }
  }
  if (inner_) inner_->BeginStep(step);
}

at::Tensor VectorHook::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  const at::Tensor routed = inner_ ? inner_->Route(layer, hidden, logits) : logits;
  if (layer >= static_cast<int>(vectors_.size()) || !vectors_[layer].defined()) return routed;
  const int64_t experts = logits.size(1);
  const at::Tensor rows =
      vectors_[layer].unsqueeze(1).expand({batch_, length_, experts}).reshape({batch_ * length_, experts});
  return routed + (applies_.defined() ? rows * applies_ : rows);
}

ConstantMemory::ConstantMemory(const MemoryBinding& memory, int64_t sequences)
    : hook_(router_), votes_(memory.tables && memory.tables->output.enabled) {
  for (int64_t i = 0; i < sequences && memory.tables; ++i) {
    Binding binding;
    binding.tables = memory.tables;
    binding.strength = memory.strength;
    slots_.push_back(router_.AddSlot(std::move(binding)));
  }
}

void ConstantMemory::BeginStep(const StepInfo& step) {
  if (!slots_.empty()) hook_.BeginStep(step);
}

at::Tensor ConstantMemory::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  if (slots_.empty()) return logits;
  const at::Tensor frozen = logits.detach();
  const at::Tensor routed = hook_.Route(layer, hidden.detach(), frozen.clone());
  return logits + (routed - frozen);
}

at::Tensor ConstantMemory::Output(const at::Tensor& hidden, const at::Tensor& logits) {
  if (slots_.empty() || !votes_) return logits;
  const at::Tensor frozen = logits.detach();
  const at::Tensor voted = hook_.Output(hidden.detach(), frozen.clone());
  return logits + (voted - frozen);
}

}  // namespace pointsman
