#include "models/router_hook.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <functional>
#include <span>
#include <utility>

namespace pointsman {
namespace {

LentThreads ThreadsOfLibTorch() {
  return {.count = static_cast<size_t>(at::get_num_threads()),
          .run = [](size_t parts, const std::function<void(size_t)>& work) {
            at::parallel_for(0, static_cast<int64_t>(parts), 1, [&](int64_t begin, int64_t end) {
              for (int64_t part = begin; part < end; ++part) work(static_cast<size_t>(part));
            });
          }};
}

}  // namespace

void RouterHook::BeginStep(const StepInfo& step) {
  if (!status_.ok()) return;
  router_.LendThreads(ThreadsOfLibTorch());  // their number is the calling thread's own
  auto begun = router_.BeginStep(step.slots, step.positions, step.tokens);
  if (begun.ok()) {
    step_ = std::move(begun).value();
    output_rows_ = step.output_rows;
    layer_numbers_ = step.layer_numbers;
  } else {
    status_ = begun.error();
  }
}

bool RouterHook::MayWrite(const at::Tensor& logits, const std::string& where) {
  if (!status_.ok()) return false;
  if (at::GradMode::is_enabled() && logits.requires_grad()) {
    status_ = Error{ErrorCode::kInvalidArgument,
                    fmt::format("{}: the router writes logits in place, which gradients cannot follow: run the model "
                                "without gradients or with a differentiable hook",
                                where)};
  }
  return status_.ok();
}

at::Tensor RouterHook::Output(const at::Tensor& hidden, const at::Tensor& logits) {
  if (!MayWrite(logits, "output")) return logits;
  const bool all = hidden.size(0) == static_cast<int64_t>(step_.slots.size());
  status_ = router_.VoteOutput(step_, all ? std::span<const uint32_t>() : output_rows_,
                               std::span(hidden.const_data_ptr<float>(), hidden.numel()),
                               std::span(logits.data_ptr<float>(), logits.numel()));
  return logits;
}

at::Tensor RouterHook::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  if (!MayWrite(logits, fmt::format("layer {}", layer))) return logits;
  // Both are contiguous by the hook's contract, so the spans cover exactly [rows, H] and [rows, E].
  status_ = router_.Route(step_, NumberOfLayer(layer_numbers_, layer),
                          std::span(hidden.const_data_ptr<float>(), hidden.numel()),
                          std::span(logits.data_ptr<float>(), logits.numel()), collect_ ? &trace_ : nullptr);
  return logits;
}

std::vector<RowTrace> RouterHook::TakeTrace() { return std::exchange(trace_, {}); }

}  // namespace pointsman
