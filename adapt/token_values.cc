#include "adapt/token_values.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "adapt/adam.h"
#include "adapt/parallel.h"

namespace pointsman {
namespace {

constexpr uint32_t kBatchSequences = 8;

class FreeLogits : public RoutingHook {
 public:
  explicit FreeLogits(const std::vector<at::Tensor>& values) : values_(values) {}
  void BeginStep(const StepInfo&) override {}
  at::Tensor Route(int layer, const at::Tensor&, const at::Tensor& logits) override {
    return values_[layer].defined() ? logits + values_[layer] : logits;
  }

 private:
  const std::vector<at::Tensor>& values_;
};

void CopyLosses(const at::Tensor& losses, std::span<const Sequence> sequences, const Batch& batch,
                std::vector<SequenceScore>& scores) {
  const at::Tensor rows = losses.detach().contiguous();
  for (size_t b = 0; b < batch.members.size(); ++b) {
    const float* row = rows.const_data_ptr<float>() + b * rows.size(1);
    scores[batch.members[b]].nll.assign(row, row + sequences[batch.members[b]].inputs.size());
  }
}

void CopyValues(const at::Tensor& values, std::span<const Sequence> sequences, const Batch& batch, at::Tensor& to) {
  const int64_t length = batch.ids.size(1), experts = values.size(1);
  for (size_t b = 0; b < batch.members.size(); ++b) {
    const Sequence& s = sequences[batch.members[b]];
    std::memcpy(to.data_ptr<float>() + s.first_row * experts, values.const_data_ptr<float>() + b * length * experts,
                s.inputs.size() * experts * sizeof(float));
  }
}

void OptimizeBatch(const LossModel& model, std::span<const Sequence> sequences, const Batch& batch,
                   const TokenValueOptions& options, TokenValues& result) {
  const int64_t layers = model.config().num_layers, rows = batch.ids.numel();
  std::vector<at::Tensor> values(layers), leaves;
  std::vector<Parameter> parameters;
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (options.layer >= 0 && layer != options.layer) continue;
    values[layer] = at::zeros({rows, model.config().num_experts}, at::kFloat).set_requires_grad(true);
    leaves.push_back(values[layer]);
    parameters.push_back({"token_values", values[layer], options.rate});
  }
  Adam adam(parameters);
  for (int step = 0; step < options.steps; ++step) {
    c10::AutoGradMode with_grad(true);
    FreeLogits hook(values);
    const at::Tensor losses = TokenLosses(model, batch, &hook);
    if (step == 0) CopyLosses(losses, sequences, batch, result.before);
    const auto gradients = torch::autograd::grad({losses.sum()}, leaves, {}, std::nullopt, false, true);
    adam.Step(gradients, 1.0);
  }
  c10::AutoGradMode no_grad(false);
  if (options.score_after) {
    FreeLogits hook(values);
    CopyLosses(TokenLosses(model, batch, &hook), sequences, batch, result.after);
  }
  if (!options.keep_values) return;
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (values[layer].defined()) CopyValues(values[layer].detach(), sequences, batch, result.values[layer]);
  }
}

}  // namespace

TokenValues OptimizeTokenValues(const LossModel& model, std::span<const Sequence> sequences,
                                const TokenValueOptions& options) {
  TokenValues result;
  result.before.resize(sequences.size());
  result.after.resize(sequences.size());
  int64_t rows = 0;
  for (const Sequence& s : sequences) rows = std::max<int64_t>(rows, s.first_row + s.inputs.size());
  for (int64_t layer = 0; options.keep_values && layer < model.config().num_layers; ++layer) {
    result.values.push_back(at::zeros({rows, model.config().num_experts}, at::kFloat));
  }
  const auto plan = PlanBatches(sequences, kBatchSequences, /*seed=*/0);
  ParallelFor(static_cast<int>(plan.size()), options.threads, [&](int i) {
    const Batch batch = MakeBatch(sequences, plan[i]);
    OptimizeBatch(model, sequences, batch, options, result);
    if (options.on_progress) options.on_progress(static_cast<uint64_t>(batch.weights.sum().item<double>()));
  });
  return result;
}

}  // namespace pointsman
