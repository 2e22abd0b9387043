#include "adapt/trainer.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

#include "adapt/adam.h"
#include "adapt/parallel.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

struct ShardResult {
  double loss_sum = 0;  // nats over counted targets
  std::vector<at::Tensor> gradients;
};

// Gradient of sum(nll) / batch_weight on one shard.
ShardResult ShardGradients(const LossModel& model, const RoutingModule* module,
                           const std::vector<at::Tensor>& parameters, const Batch& batch, double batch_weight,
                           double noise) {
  c10::AutoGradMode with_grad(true);
  ShardResult result;
  std::unique_ptr<ModuleHook> hook;
  if (module) {
    hook = std::make_unique<ModuleHook>(*module, batch, /*training=*/true);
    hook->SetNoise(noise);
  }
  const at::Tensor sum = TokenLosses(model, batch, hook.get()).sum();
  result.loss_sum = sum.item<double>();
  result.gradients = torch::autograd::grad({sum / batch_weight}, parameters, {}, /*retain_graph=*/std::nullopt,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  return result;
}

// Gradient of the penalty on one draw of `still`.
ShardResult StillGradients(const RoutingModule& module, const std::vector<at::Tensor>& parameters,
                           const StillRows& still, uint64_t seed) {
  c10::AutoGradMode with_grad(true);
  const int64_t count = std::min(still.rows_per_step, still.ids.size(0));
  std::mt19937_64 random(seed);
  at::Tensor rows = at::empty({count}, at::kLong);
  for (int64_t i = 0; i < count; ++i) rows.data_ptr<int64_t>()[i] = static_cast<int64_t>(random() % still.ids.size(0));
  Batch batch;
  batch.ids = still.ids.index_select(0, rows).unsqueeze(0);
  at::Tensor sum = at::zeros({}, at::kFloat);
  for (size_t layer = 0; layer < still.hidden.size(); ++layer) {
    const at::Tensor change = module.Change(static_cast<int>(layer), still.hidden[layer].index_select(0, rows), batch,
                                            /*training=*/false);
    if (change.defined()) sum = sum + change.square().sum();
  }
  ShardResult result;
  const double scale = still.weight / static_cast<double>(count * static_cast<int64_t>(still.hidden.size()));
  result.gradients = torch::autograd::grad({sum * scale}, parameters, {}, /*retain_graph=*/std::nullopt,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  return result;
}

class Loop {
 public:
  Loop(const LossModel& model, const RoutingModule* module, std::vector<Parameter> parameters,
       std::span<const Sequence> reference, std::span<const Sequence> held_out, const TrainOptions& options)
      : model_(model),
        module_(module),
        parameters_(std::move(parameters)),
        reference_(reference),
        held_out_(held_out),
        options_(options),
        adam_(parameters_, 0.9, options.beta2) {
    for (const Parameter& p : parameters_) values_.push_back(p.value);
  }

  TrainReport Run() {
    TrainReport report;
    Keep();
    report.initial_nll = report.best_nll = HeldOut();
    Note(report, {0, 0, report.best_nll, 0});
    int worse = 0;
    // Without a model that computes, nothing that follows means anything; the caller asks for its status.
    for (int epoch = 1; epoch <= options_.epochs && worse < options_.patience && model_.status().ok(); ++epoch) {
      const auto started = std::chrono::steady_clock::now();
      const double train = Epoch(epoch);
      const double held_out = HeldOut();
      Note(report, {epoch, train, held_out, SecondsSince(started)});
      worse = held_out_.empty() || held_out < report.best_nll ? 0 : worse + 1;
      if (worse == 0) {
        report.best_nll = held_out;
        report.best_epoch = epoch;
        Keep();
      }
    }
    c10::AutoGradMode no_grad(false);
    for (size_t i = 0; i < values_.size(); ++i) values_[i].copy_(best_[i]);
    return report;
  }

 private:
  double Epoch(int epoch) {
    const auto plan = PlanBatches(reference_, options_.batch_sequences, options_.seed * 1000003 + epoch);
    const double total_steps = static_cast<double>(plan.size()) * options_.epochs;
    double loss = 0, count = 0;
    for (size_t i = 0; i < plan.size() && model_.status().ok(); ++i) {
      const double done = (static_cast<double>(plan.size()) * (epoch - 1) + static_cast<double>(i)) / total_steps;
      const auto [step_loss, step_count] = Step(plan[i], 1 - done);
      loss += step_loss;
      count += step_count;
      if (options_.on_progress) options_.on_progress(static_cast<uint64_t>(step_count));
    }
    return count > 0 ? loss / count : 0;
  }

  std::pair<double, double> Step(const std::vector<uint32_t>& members, double rate_scale) {
    std::vector<Batch> shards;
    double weight = 0;
    ++steps_;
    for (size_t i = 0; i < members.size(); i += kShardSequences) {
      const size_t n = std::min<size_t>(kShardSequences, members.size() - i);
      shards.push_back(MakeBatch(reference_, std::span(members).subspan(i, n)));
      shards.back().draw = (options_.seed * 1000003 + steps_) * 64 + shards.size() - 1;
      weight += shards.back().weights.sum().item<double>();
    }
    if (weight == 0) return {0, 0};
    const bool still = module_ && options_.still && options_.still->weight > 0;
    const size_t parts = shards.size();
    std::vector<ShardResult> results(parts + still);
    ParallelFor(static_cast<int>(results.size()), options_.threads, [&](int i) {
      results[i] = static_cast<size_t>(i) < parts
                       ? ShardGradients(model_, module_, values_, shards[i], weight, options_.noise * rate_scale)
                       : StillGradients(*module_, values_, *options_.still, options_.seed * 1000003 + steps_);
    });
    double loss = results[0].loss_sum;
    std::vector<at::Tensor>& total = results[0].gradients;
    for (size_t s = 1; s < results.size(); ++s) {
      loss += results[s].loss_sum;
      for (size_t p = 0; p < total.size(); ++p) {
        const at::Tensor& g = results[s].gradients[p];
        if (g.defined()) total[p] = total[p].defined() ? total[p].add(g) : g;
      }
    }
    adam_.Step(total, rate_scale);
    return {loss, weight};
  }

  double HeldOut() const {
    HookFactory hooks;
    if (module_) {
      hooks = [this](const Batch& batch, std::vector<uint32_t>*) {
        return std::make_unique<ModuleHook>(*module_, batch, /*training=*/false);
      };
    }
    return MeanNll(held_out_, ScoreSequences(model_, held_out_, hooks, {.threads = options_.threads}));
  }

  void Note(TrainReport& report, EpochReport epoch) {
    report.epochs.push_back(epoch);
    if (options_.on_epoch) options_.on_epoch(epoch);
  }

  void Keep() {
    best_.clear();
    for (const at::Tensor& value : values_) best_.push_back(value.detach().clone());
  }

  const LossModel& model_;
  const RoutingModule* module_;
  std::vector<Parameter> parameters_;
  std::vector<at::Tensor> values_, best_;
  std::span<const Sequence> reference_, held_out_;
  const TrainOptions& options_;
  Adam adam_;
  uint64_t steps_ = 0;
};

}  // namespace

TrainReport Train(const LossModel& model, RoutingModule& module, std::span<const Sequence> reference,
                  std::span<const Sequence> held_out, const TrainOptions& options) {
  return Loop(model, &module, module.Parameters(), reference, held_out, options).Run();
}

TrainReport TrainWeights(MoeModel& clone, double learning_rate, std::span<const Sequence> reference,
                         std::span<const Sequence> held_out, const TrainOptions& options) {
  std::vector<Parameter> parameters;
  for (auto& [name, value] : clone.Weights()) parameters.push_back({name, value, learning_rate});
  return Loop(clone, nullptr, std::move(parameters), reference, held_out, options).Run();
}

}  // namespace pointsman
