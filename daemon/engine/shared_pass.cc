#include "daemon/engine/shared_pass.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <string>
#include <utility>

namespace pointsman {
namespace {

Error NotFinite(int64_t position) {
  return {ErrorCode::kInternal,
          fmt::format("the model's logits after position {} of this text are not finite: send another text, and check "
                      "the model's weights",
                      position)};
}

// The rows that a hook sees as ends of segments, in the order of the logits.
void ReadRouting(Compute& compute, std::span<const MoeModel::RowSegment> segments, std::span<PassResult> results) {
  std::vector<RowTrace> trace = compute.hook.TakeTrace();
  std::vector<int64_t> result_of(compute.hook.step().slots.size(), -1);
  size_t row = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    row += segments[i].tokens.size();
    if (!segments[i].wants_logits || segments[i].slot == 0) continue;
    result_of[row - 1] = static_cast<int64_t>(i);
    results[i].gate = compute.hook.step().gate[row - 1];
  }
  for (RowTrace& entry : trace) {
    if (const int64_t i = result_of[entry.row]; i >= 0) {
      entry.row = 0;
      results[i].trace.push_back(std::move(entry));
    }
  }
}

// The pass itself; false where it failed as a whole, with the reason in `status`.
Status TryPass(Compute& compute, std::span<const MoeModel::RowSegment> segments, bool trace,
               std::span<PassResult> results) {
  const bool routed = std::ranges::any_of(segments, [](const auto& segment) { return segment.slot != 0; });
  // Of this pass alone: learning runs passes of its own through the same hook, whose rows are not ours.
  static_cast<void>(compute.hook.TakeTrace());
  compute.hook.CollectTrace(trace && routed);
  const at::Tensor logits = compute.model.ForwardRows(segments, routed ? &compute.hook : nullptr);
  compute.hook.CollectTrace(false);
  POINTSMAN_CHECK_OK(compute.hook.status());
  int64_t row = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    if (!segments[i].wants_logits) continue;
    results[i].logits = logits[row++];
    results[i].logprobs = results[i].logits.log_softmax(-1);  // of several rows at once it would wake threads
    // One value that is not finite makes all of them NaN.
    if (std::isnan(results[i].logprobs.const_data_ptr<float>()[0]))
      results[i].status = NotFinite(segments[i].cache->length - 1);
  }
  if (routed) ReadRouting(compute, segments, results);
  return {};
}

}  // namespace

std::vector<PassResult> RunPass(Compute& compute, std::span<const MoeModel::RowSegment> segments, bool trace) {
  std::vector<PassResult> results(segments.size());
  std::vector<int64_t> lengths;
  for (const MoeModel::RowSegment& segment : segments) lengths.push_back(segment.cache->length);
  Status status;
  try {
    status = TryPass(compute, segments, trace, results);
  } catch (const std::exception& exception) {
    const std::string text = exception.what();
    status = Error{ErrorCode::kInternal, fmt::format("the step failed in LibTorch ({}): free memory and retry",
                                                     text.substr(0, text.find('\n')))};
  }
  if (status.ok()) return results;
  compute.hook.ClearStatus();
  compute.hook.CollectTrace(false);
  static_cast<void>(compute.hook.TakeTrace());
  for (size_t i = 0; i < segments.size(); ++i) segments[i].cache->length = lengths[i];
  if (segments.size() == 1) {
    results[0] = PassResult();
    results[0].status = status;
    return results;
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    results[i] = std::move(RunPass(compute, segments.subspan(i, 1), trace)[0]);
  }
  return results;
}

}  // namespace pointsman
