#include "adapt/capture.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "adapt/objective.h"
#include "adapt/tensors.h"

namespace pointsman {
namespace {

class CaptureHook : public RoutingHook {
 public:
  CaptureHook(std::vector<at::Tensor>& store, std::span<const Sequence> sequences, const Batch& batch,
              std::unique_ptr<RoutingHook> routing)
      : store_(store), sequences_(sequences), batch_(batch), routing_(std::move(routing)) {}
  void BeginStep(const StepInfo& step) override {
    if (routing_) routing_->BeginStep(step);
  }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const at::Tensor rows = hidden.contiguous();
    const int64_t width = rows.size(1), length = batch_.ids.size(1);
    for (size_t b = 0; b < batch_.members.size(); ++b) {
      const Sequence& s = sequences_[batch_.members[b]];
      float* to = store_[layer].data_ptr<float>() + s.first_row * width;
      std::memcpy(to, rows.const_data_ptr<float>() + b * length * width, s.inputs.size() * width * sizeof(float));
    }
    return routing_ ? routing_->Route(layer, hidden, logits) : logits;
  }
  Status status() const override { return routing_ ? routing_->status() : Status(); }

 private:
  std::vector<at::Tensor>& store_;
  std::span<const Sequence> sequences_;
  const Batch& batch_;
  std::unique_ptr<RoutingHook> routing_;
};

}  // namespace

std::vector<at::Tensor> CaptureHidden(const LossModel& model, std::span<const Sequence> sequences,
                                      const CaptureOptions& options) {
  int64_t rows = 0;
  for (const Sequence& s : sequences) rows = std::max<int64_t>(rows, s.first_row + s.inputs.size());
  std::vector<at::Tensor> hidden;
  for (int64_t layer = 0; layer < model.config().num_layers; ++layer) {
    hidden.push_back(at::zeros({rows, model.config().hidden_size}, at::kFloat));
  }
  const auto hooks = [&](const Batch& batch, std::vector<uint32_t>* slots) {
    return std::make_unique<CaptureHook>(hidden, sequences, batch,
                                         options.routing ? options.routing(batch, slots) : nullptr);
  };
  ScoreSequences(model, sequences, hooks, {.threads = options.threads, .on_progress = options.on_progress});
  return hidden;
}

at::Tensor ProjectKeys(const at::Tensor& hidden, const at::Tensor& mean, const at::Tensor& projection) {
  constexpr double kTiny = 1e-12;
  at::Tensor q = mean.defined() ? hidden - mean : hidden;
  if (projection.defined()) q = at::matmul(q, projection.t());
  return q / q.norm(2, {-1}, /*keepdim=*/true).clamp_min(kTiny);
}

Result<LayerKeys> MakeKeys(const at::Tensor& hidden, uint32_t dim) {
  c10::AutoGradMode no_grad(false);
  LayerKeys result;
  if (dim == 0) {
    result.keys = ProjectKeys(hidden, {}, {});
    return result;
  }
  const uint32_t width = static_cast<uint32_t>(hidden.size(1));
  POINTSMAN_TRY(result.transform, FitWhitening(SpanOf(hidden), width, dim));
  result.keys = ProjectKeys(hidden, TensorOf(result.transform.mean, {width}),
                            TensorOf(result.transform.projection, {dim, width}));
  return result;
}

}  // namespace pointsman
