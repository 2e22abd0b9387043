#include "adapt/objective.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "adapt/parallel.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

// Passes everything on to `inner` and notes which rows' logits, of a router or of the output, came back with other
// bits.
class TouchRecorder : public RoutingHook {
 public:
  explicit TouchRecorder(RoutingHook* inner) : inner_(inner) {}
  void BeginStep(const StepInfo& step) override {
    touched_.assign(step.slots.size(), 0);
    inner_->BeginStep(step);
  }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const at::Tensor before = logits.clone();
    at::Tensor after = inner_->Route(layer, hidden, logits).contiguous();
    const float* a = before.const_data_ptr<float>();
    const float* b = after.const_data_ptr<float>();
    const int64_t experts = before.size(1);
    for (size_t row = 0; row < touched_.size(); ++row) {
      touched_[row] |= std::memcmp(a + row * experts, b + row * experts, experts * sizeof(float)) != 0;
    }
    return after;
  }
  // A row of the output is a whole vocabulary: hashed, not copied. Scoring asks for all rows (never last_only).
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    const std::vector<uint64_t> before = RowHashes(logits);
    at::Tensor after = inner_->Output(hidden, logits).contiguous();
    const std::vector<uint64_t> now = RowHashes(after);
    for (size_t row = 0; row < touched_.size(); ++row) touched_[row] |= before[row] != now[row];
    return after;
  }
  const std::vector<uint8_t>& touched() const { return touched_; }

 private:
  static std::vector<uint64_t> RowHashes(const at::Tensor& logits) {
    std::vector<uint64_t> hashes;
    const auto bytes = std::as_bytes(std::span(logits.const_data_ptr<float>(), logits.numel()));
    const size_t width = logits.size(1) * sizeof(float);
    for (size_t begin = 0; begin < bytes.size(); begin += width) hashes.push_back(Xxh3(bytes.subspan(begin, width)));
    return hashes;
  }

  RoutingHook* inner_;
  std::vector<uint8_t> touched_;
};

void ScoreBatch(const LossModel& model, std::span<const Sequence> sequences, const Batch& batch,
                const HookFactory& hooks, std::vector<SequenceScore>& scores) {
  c10::AutoGradMode no_grad(false);
  std::vector<uint32_t> slots;
  const std::unique_ptr<RoutingHook> hook = hooks ? hooks(batch, &slots) : nullptr;
  TouchRecorder recorder(hook.get());
  const at::Tensor losses = TokenLosses(model, batch, hook ? &recorder : nullptr, slots).contiguous();
  const int64_t length = losses.size(1);
  for (size_t b = 0; b < batch.members.size(); ++b) {
    SequenceScore& score = scores[batch.members[b]];
    const size_t n = sequences[batch.members[b]].inputs.size();
    const float* row = losses.const_data_ptr<float>() + b * length;
    score.nll.assign(row, row + n);
    score.untouched.assign(n, 1);
    for (size_t t = 0; hook && t < n; ++t) score.untouched[t] = !recorder.touched()[b * length + t];
  }
}

}  // namespace

at::Tensor TokenLosses(const LossModel& model, const Batch& batch, RoutingHook* hook,
                       const std::vector<uint32_t>& slots) {
  return model.Losses(batch.ids, batch.targets, hook, slots) * batch.weights;
}

std::vector<SequenceScore> ScoreSequences(const LossModel& model, std::span<const Sequence> sequences,
                                          const HookFactory& hooks, const ScoreOptions& options) {
  std::vector<uint32_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return sequences[a].inputs.size() > sequences[b].inputs.size(); });
  std::vector<SequenceScore> scores(sequences.size());
  const uint32_t size = options.batch_sequences;
  const int batches = static_cast<int>((order.size() + size - 1) / size);
  ParallelFor(batches, options.threads, [&](int i) {
    const size_t begin = size_t{size} * i, end = std::min(order.size(), begin + size);
    const Batch batch = MakeBatch(sequences, std::span(order).subspan(begin, end - begin));
    ScoreBatch(model, sequences, batch, hooks, scores);
    if (options.on_progress) options.on_progress(static_cast<uint64_t>(batch.weights.sum().item<double>()));
  });
  return scores;
}

double MeanNll(std::span<const Sequence> sequences, std::span<const SequenceScore> scores) {
  double sum = 0;
  for (const SequenceScore& score : scores) sum = std::accumulate(score.nll.begin(), score.nll.end(), sum);
  const uint64_t count = CountTargets(sequences);
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

}  // namespace pointsman
