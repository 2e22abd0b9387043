#include "adapt/output_capture.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "adapt/objective.h"
#include "models/router_hook.h"
#include "router/router.h"

namespace pointsman {
namespace {

class OutputCaptureHook : public RoutingHook {
 public:
  OutputCaptureHook(const std::shared_ptr<const RoutingTables>& tables, std::span<const Sequence> sequences,
                    const Batch& batch, OutputCapture& to, Status& status, std::vector<uint32_t>* slots)
      : hook_(router_), sequences_(sequences), batch_(batch), to_(to), status_(status) {
    for (size_t i = 0; i < batch.members.size(); ++i) {
      Binding binding;
      binding.tables = tables;
      slots->push_back(router_.AddSlot(std::move(binding)));
    }
  }
  ~OutputCaptureHook() override { status_ = hook_.status(); }
  void BeginStep(const StepInfo& step) override { hook_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    return hook_.Route(layer, hidden, logits);
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    if (!hook_.status().ok()) return logits;
    const at::Tensor rows = hidden.contiguous();
    const int64_t width = rows.size(1), length = batch_.ids.size(1);
    for (size_t b = 0; b < batch_.members.size(); ++b) {
      const Sequence& s = sequences_[batch_.members[b]];
      std::memcpy(to_.hidden.data_ptr<float>() + s.first_row * width, rows.const_data_ptr<float>() + b * length * width,
                  s.inputs.size() * width * sizeof(float));
      std::copy_n(hook_.step().gate.begin() + static_cast<ptrdiff_t>(b * length), s.inputs.size(),
                  to_.gate.begin() + static_cast<ptrdiff_t>(s.first_row));
    }
    return logits;
  }

 private:
  Router router_;
  RouterHook hook_;
  std::span<const Sequence> sequences_;
  const Batch& batch_;
  OutputCapture& to_;
  Status& status_;
};

}  // namespace

Result<OutputCapture> CaptureOutput(const LossModel& model, std::span<const Sequence> sequences,
                                    const std::shared_ptr<const RoutingTables>& tables, const CaptureOptions& options) {
  int64_t rows = 0;
  for (const Sequence& s : sequences) rows = std::max<int64_t>(rows, s.first_row + s.inputs.size());
  OutputCapture capture{at::zeros({rows, model.config().hidden_size}, at::kFloat), std::vector<float>(rows),
                        std::vector<float>(rows)};
  std::vector<Status> statuses(sequences.size());  // of each batch, at its first member
  const auto hooks = [&](const Batch& batch, std::vector<uint32_t>* slots) {
    return std::make_unique<OutputCaptureHook>(tables, sequences, batch, capture, statuses[batch.members.front()],
                                               slots);
  };
  const auto scores =
      ScoreSequences(model, sequences, hooks, {.threads = options.threads, .on_progress = options.on_progress});
  for (const Status& status : statuses) POINTSMAN_CHECK_OK(status);
  for (size_t i = 0; i < sequences.size(); ++i) {
    std::ranges::copy(scores[i].nll, capture.nll.begin() + static_cast<ptrdiff_t>(sequences[i].first_row));
  }
  return capture;
}

}  // namespace pointsman
