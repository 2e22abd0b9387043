#include "adapt/rerouting.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "adapt/adam.h"

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

// One pass over the contexts with the memory alone. Logits are not needed.
Status Observe(const MoeModel& model, const Batch& contexts, RoutingHook& memory, const std::vector<uint32_t>& slots,
               ContextStatistics* result) {
  const at::NoGradGuard no_grad;
  StatisticsHook hook(memory, model.config(), contexts, result);
  model.Forward(contexts.ids, {.hook = &hook, .slots = slots, .last_only = true});
  return hook.status();
}

// Adds the vectors as rows of their own, so that each token's gradient can be told apart.
class RowHook : public RoutingHook {
 public:
  RowHook(RoutingHook& inner, const VectorBatch& rows) : inner_(inner), rows_(rows) {}
  void BeginStep(const StepInfo& step) override { inner_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const at::Tensor routed = inner_.Route(layer, hidden, logits);
    return rows_[layer].defined() ? routed + rows_[layer] : routed;
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return inner_.Output(hidden, logits);
  }
  Status status() const override { return inner_.status(); }

 private:
  RoutingHook& inner_;
  const VectorBatch& rows_;  // [layer] = [B * T, E] or undefined
};

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
at::Tensor MeanLosses(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights) {
  const at::Tensor flat =
      at::cross_entropy_loss(logits.view({-1, logits.size(-1)}), targets.view({-1}), {}, at::Reduction::None);
  return (flat.view(weights.sizes()) * weights).sum(1) / weights.sum(1).clamp_min(1);
}

// Per context and layer: root of the sum of squares over the tokens, [B, E].
at::Tensor Spread(const at::Tensor& rows) { return rows.square().sum(1).sqrt() + 1e-20; }

// [B, 1], 0..1: the cosine between the steps of the first and of the second half of the counted tokens, as a part of
// kFullAgreement. scales [B, rows.size()]: how far each layer of a context moves; one that only its neighbours in the
// batch adapt has no say.
at::Tensor Agreement(const std::vector<at::Tensor>& rows, const at::Tensor& weights, const at::Tensor& scales) {
  const at::Tensor head = (weights.cumsum(1) <= 0.5 * weights.sum(1, /*keepdim=*/true)).to(at::kFloat).unsqueeze(-1);
  std::vector<at::Tensor> first, second;
  for (size_t i = 0; i < rows.size(); ++i) {
    const at::Tensor unit = scales.select(1, static_cast<int64_t>(i)).unsqueeze(1) / Spread(rows[i]);
    const at::Tensor beginning = (rows[i] * head).sum(1);
    first.push_back(beginning * unit);
    second.push_back((rows[i].sum(1) - beginning) * unit);
  }
  const at::Tensor a = at::cat(first, 1), b = at::cat(second, 1);
  const at::Tensor lengths = (a.square().sum(1, /*keepdim=*/true) * b.square().sum(1, /*keepdim=*/true)).sqrt();
  return ((a * b).sum(1, /*keepdim=*/true) / (lengths + 1e-12) / kFullAgreement).clamp(0, 1);
}

}  // namespace

struct Rerouter::Gradients {
  at::Tensor losses;             // [B]
  std::vector<at::Tensor> rows;  // by adapted layer: [B, T, E]
};

at::Tensor Rerouter::CutLogits(const VectorBatch& vectors) const {
  return cut_.logits + RowsOf(vectors[cut_.layer], cut_.logits.size(0));
}

MoeModel::ForwardOptions Rerouter::Forward(RoutingHook* hook) const { return {.hook = hook, .slots = slots_}; }

void Rerouter::Begin(const Batch& contexts, const VectorBatch& start, const std::vector<at::Tensor>& confidence) {
  const int64_t layers = model_.config().num_layers, batch = contexts.ids.size(0);
  contexts_ = contexts;
  scales_ = StepScales(confidence, options_, batch, layers);
  adapted_.clear();
  start_.clear();
  below_.assign(layers, at::Tensor());
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (scales_.select(1, layer).max().item<float>() > 0) adapted_.push_back(layer);
    const bool given = layer < static_cast<int64_t>(start.size()) && start[layer].defined();
    start_.push_back(given ? start[layer].detach().clone() : at::zeros({batch, model_.config().num_experts}));
    if (adapted_.empty() && given) below_[layer] = start_[layer];
  }
}

Result<Rerouted> Rerouter::Learn(const Batch& contexts, const VectorBatch& start, KvCache* cache) {
  const at::NoGradGuard no_grad;
  ContextStatistics statistics;
  if (options_.layers == ReroutedLayers::kMostConfident || options_.layers == ReroutedLayers::kLeastConfident) {
    POINTSMAN_CHECK_OK(Observe(model_, contexts, memory_, slots_, &statistics));
  }
  Begin(contexts, start, statistics.confidence);
  cache_ = cache;
  VectorHook hook(&memory_, below_);
  MoeModel::ForwardOptions forward = Forward(&hook);
  forward.cache = cache;
  cut_ = model_.ForwardTo(static_cast<int>(adapted_.front()), contexts.ids, forward);
  POINTSMAN_CHECK_OK(hook.status());
  return options_.guard ? FitGuarded() : Fit(contexts.weights);
}

Result<at::Tensor> Rerouter::Prefill(const VectorBatch& vectors) {
  const at::NoGradGuard no_grad;
  VectorHook hook(&memory_, vectors);
  MoeModel::ForwardOptions forward = Forward(&hook);
  forward.cache = cache_;
  forward.last_only = true;
  const at::Tensor logits = model_.ForwardFrom(cut_, CutLogits(vectors), forward);
  POINTSMAN_CHECK_OK(hook.status());
  return logits;
}

Result<std::vector<double>> Rerouter::Losses(const VectorBatch& vectors) {
  const at::NoGradGuard no_grad;
  POINTSMAN_TRY(const at::Tensor losses, Score(vectors, contexts_.weights));
  return std::vector<double>(losses.const_data_ptr<float>(), losses.const_data_ptr<float>() + losses.numel());
}

Result<Rerouter::Gradients> Rerouter::Differentiate(const VectorBatch& vectors, const at::Tensor& weights) {
  const int64_t batch = contexts_.ids.size(0), length = contexts_.ids.size(1), count = batch * length;
  VectorBatch rows(vectors.size());
  std::vector<at::Tensor> leaves;
  for (const int64_t layer : adapted_) {
    leaves.push_back(rows[layer] = RowsOf(vectors[layer], count).set_requires_grad(true));
  }
  for (size_t layer = adapted_.front() + 1; layer < rows.size(); ++layer) {
    // A layer that only some contexts adapt, or that keeps its start.
    if (!rows[layer].defined()) rows[layer] = RowsOf(vectors[layer], count);
  }
  RowHook hook(memory_, rows);
  const at::AutoGradMode with_grad(true);
  const at::Tensor logits = model_.ForwardFrom(cut_, cut_.logits + rows[cut_.layer], Forward(&hook));
  POINTSMAN_CHECK_OK(hook.status());
  const at::Tensor losses = MeanLosses(logits, contexts_.targets, weights);
  Gradients result{losses.detach(), {}};
  for (const at::Tensor& gradient : torch::autograd::grad({losses.sum()}, leaves)) {
    result.rows.push_back(gradient.view({batch, length, -1}));
  }
  return result;
}

Result<Rerouted> Rerouter::Fit(const at::Tensor& weights) {
  const int64_t batch = contexts_.ids.size(0);
  Rerouted result;
  result.kept.assign(batch, 1);
  std::vector<Parameter> parameters;
  for (const at::Tensor& layer : start_) result.vectors.push_back(layer.clone());
  for (const int64_t layer : adapted_) parameters.push_back({"rerouting", result.vectors[layer], options_.rate});
  Adam adam(parameters);
  at::Tensor done = at::zeros({batch, 1}), last;
  VectorBatch previous(adapted_.size());
  for (int step = 0; step < options_.steps; ++step) {
    POINTSMAN_TRY(const Gradients gradients, Differentiate(result.vectors, weights));
    const at::Tensor now = gradients.losses.unsqueeze(1);
    if (step == 0) result.before.assign(now.const_data_ptr<float>(), now.const_data_ptr<float>() + batch);
    if (step > 0 && options_.stop_early) {
      const at::Tensor back = (now > last).to(at::kFloat) * (1 - done);
      for (size_t i = 0; i < adapted_.size(); ++i) {
        at::Tensor& vectors = result.vectors[adapted_[i]];
        vectors.copy_(at::where(back > 0, previous[i], vectors));
      }
      done = at::maximum(done, (now > last - options_.stop_below).to(at::kFloat));
      if (done.min().item<float>() > 0) break;
    }
    last = now;
    ++result.steps;
    VectorBatch sums;
    for (size_t i = 0; i < adapted_.size(); ++i) {
      previous[i] = result.vectors[adapted_[i]].clone();
      sums.push_back(gradients.rows[i].sum(1));
    }
    if (options_.rule == ReroutingRule::kAdam) adam.Step(sums, 1.0);
    at::Tensor rate = at::full({batch, 1}, options_.rate);
    if (options_.rule == ReroutingRule::kAgreement)
      rate = rate * Agreement(gradients.rows, weights, scales_.index_select(1, at::tensor(adapted_)));
    for (size_t i = 0; i < adapted_.size(); ++i) {
      at::Tensor& vectors = result.vectors[adapted_[i]];
      if (options_.rule != ReroutingRule::kAdam) vectors -= rate * sums[i] / Spread(gradients.rows[i]);
      const at::Tensor scale = scales_.select(1, adapted_[i]).unsqueeze(1) * (1 - done);
      vectors.copy_(previous[i] + scale * (vectors - previous[i]));
    }
  }
  return result;
}

Result<at::Tensor> Rerouter::Score(const VectorBatch& vectors, const at::Tensor& weights) {
  VectorHook hook(&memory_, vectors);
  const at::Tensor logits = model_.ForwardFrom(cut_, CutLogits(vectors), Forward(&hook));
  POINTSMAN_CHECK_OK(hook.status());
  return MeanLosses(logits, contexts_.targets, weights);
}

Result<Rerouted> Rerouter::FitGuarded() {
  const at::Tensor& weights = contexts_.weights;
  const at::Tensor head = weights * (weights.cumsum(1) <= 0.75 * weights.sum(1, /*keepdim=*/true));
  POINTSMAN_TRY(const Rerouted tried, Fit(head));
  POINTSMAN_TRY(const at::Tensor before, Score(start_, weights - head));
  POINTSMAN_TRY(const at::Tensor after, Score(tried.vectors, weights - head));
  POINTSMAN_TRY(Rerouted result, Fit(weights));
  const at::Tensor keep = (after < before - options_.guard_margin).unsqueeze(1);  // false for NaN
  for (size_t layer = 0; layer < start_.size(); ++layer) {
    result.vectors[layer] = at::where(keep, result.vectors[layer], start_[layer]);
  }
  for (int64_t b = 0; b < keep.size(0); ++b) result.kept[b] = keep[b][0].item<bool>();
  return result;
}

Result<Rerouted> Reroute(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory,
                         const VectorBatch& start, const ReroutingOptions& options) {
  ConstantMemory constant(memory, contexts.ids.size(0));
  return Rerouter(model, &constant, constant.slots(), options).Learn(contexts, start);
}

Result<VectorBatch> MeanRetrieved(const MoeModel& model, const Batch& contexts, const MemoryBinding& memory) {
  ConstantMemory constant(memory, contexts.ids.size(0));
  ContextStatistics statistics;
  POINTSMAN_CHECK_OK(Observe(model, contexts, constant, constant.slots(), &statistics));
  return std::move(statistics.change);
}

}  // namespace pointsman
