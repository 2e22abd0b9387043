#include "indexer/evaluation/rerouting_scorer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>

#include "adapt/parallel.h"

namespace pointsman {
namespace {

constexpr uint32_t kBatchSequences = 8;
constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

uint32_t ContextOf(const Sequence& s, uint32_t context) {
  return context > 0 ? context : static_cast<uint32_t>(s.inputs.size() / 2);
}

// The first tokens of a window, all of whose targets count.
Sequence Beginning(const Sequence& s, uint32_t length) {
  Sequence first = s;
  first.inputs.resize(length);
  first.targets.resize(length);
  first.mask.assign(length, 1);
  return first;
}

// One batch of windows: learns at every interval, then scores.
class BatchScorer {
 public:
  BatchScorer(const MoeModel& model, std::span<const Sequence> windows, const Batch& batch,
              const ReroutedScoring& options)
      : model_(model), windows_(windows), batch_(batch), options_(options) {}

  Result<at::Tensor> Run() {  // [B, T] losses
    const at::NoGradGuard no_grad;
    at::Tensor losses = at::zeros_like(batch_.weights);
    for (uint32_t chunk = 0;; ++chunk) {
      const std::vector<uint32_t> from = Ends(chunk);
      POINTSMAN_TRY(VectorBatch vectors, Learn(from));
      learned_.push_back(std::move(vectors));
      from_.push_back(from);
      const bool last = !AnyBeyond(Ends(chunk + 1));
      if (options_.recompute || last) {
        POINTSMAN_TRY(const at::Tensor scored, Score());
        Keep(scored, options_.recompute ? from : Ends(0), losses);
      }
      if (last) return losses;
    }
  }

 private:
  // Where each window's text so far ends before the chunk: tokens.
  std::vector<uint32_t> Ends(uint32_t chunk) const {
    std::vector<uint32_t> ends;
    for (const uint32_t member : batch_.members) {
      const uint32_t length = static_cast<uint32_t>(windows_[member].inputs.size());
      ends.push_back(std::min(length, ContextOf(windows_[member], options_.context) + chunk * options_.interval));
    }
    return ends;
  }

  // Is anything scored from there on?
  bool AnyBeyond(const std::vector<uint32_t>& ends) const {
    for (size_t b = 0; b < ends.size(); ++b) {
      const std::vector<uint8_t>& mask = windows_[batch_.members[b]].mask;
      if (std::find(mask.begin() + ends[b], mask.end(), 1) != mask.end()) return true;
    }
    return false;
  }

  Result<VectorBatch> Learn(const std::vector<uint32_t>& ends) const {
    if (options_.rerouting.steps == 0 && !options_.warm.tables) return VectorBatch{};
    std::vector<Sequence> texts;
    std::vector<uint32_t> members;
    for (size_t b = 0; b < ends.size(); ++b) {
      members.push_back(static_cast<uint32_t>(b));
      texts.push_back(Beginning(windows_[batch_.members[b]], ends[b]));
    }
    const Batch contexts = MakeBatch(texts, members);
    VectorBatch start;
    if (options_.warm.tables) {
      POINTSMAN_TRY(start, MeanRetrieved(model_, contexts, options_.warm));
    }
    POINTSMAN_TRY(Rerouted rerouted, Reroute(model_, contexts, options_.memory, start, options_.rerouting));
    return std::move(rerouted.vectors);
  }

  Result<at::Tensor> Score() const {
    ConstantMemory memory(options_.memory, batch_.ids.size(0));
    std::vector<std::unique_ptr<VectorHook>> hooks;
    RoutingHook* hook = &memory;
    const size_t first = options_.recompute ? learned_.size() - 1 : 0;
    for (size_t i = first; i < learned_.size(); ++i) {
      hooks.push_back(std::make_unique<VectorHook>(hook, learned_[i], i == first ? std::vector<uint32_t>() : from_[i],
                                                   i + 1 == learned_.size() ? std::vector<uint32_t>() : from_[i + 1]));
      hook = hooks.back().get();
    }
    const at::Tensor losses = TokenLosses(model_, batch_, hook, memory.slots()).contiguous();
    POINTSMAN_CHECK_OK(hook->status());
    return losses;
  }

  // Copies each row from its position `from` on; a later chunk writes over what an earlier one said of it.
  static void Keep(const at::Tensor& scored, const std::vector<uint32_t>& from, at::Tensor& losses) {
    for (size_t b = 0; b < from.size(); ++b) {
      const int64_t row = static_cast<int64_t>(b), begin = from[b], count = losses.size(1) - begin;
      if (count > 0) losses.select(0, row).narrow(0, begin, count).copy_(scored.select(0, row).narrow(0, begin, count));
    }
  }

  const MoeModel& model_;
  std::span<const Sequence> windows_;
  const Batch& batch_;
  const ReroutedScoring& options_;
  std::vector<VectorBatch> learned_;         // by chunk
  std::vector<std::vector<uint32_t>> from_;  // by chunk: [B] where it begins
};

}  // namespace

std::vector<Sequence> AfterContext(std::span<const Sequence> sequences, uint32_t context, uint32_t scored) {
  std::vector<Sequence> windows;
  for (const Sequence& s : sequences) {
    const size_t begin = ContextOf(s, context), length = s.inputs.size();
    const size_t end = scored > 0 ? std::min(length, begin + scored) : length;
    if (begin == 0 || begin >= length) continue;
    windows.push_back(s);
    std::vector<uint8_t>& mask = windows.back().mask;
    std::fill_n(mask.begin(), begin, uint8_t{0});
    std::fill(mask.begin() + static_cast<ptrdiff_t>(end), mask.end(), uint8_t{0});
  }
  return windows;
}

Result<std::vector<SequenceScore>> ScoreRerouted(const MoeModel& model, std::span<const Sequence> windows,
                                                 const ReroutedScoring& options) {
  std::vector<uint32_t> order(windows.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return windows[a].inputs.size() > windows[b].inputs.size(); });
  std::vector<SequenceScore> scores(windows.size());
  const int batches = static_cast<int>((order.size() + kBatchSequences - 1) / kBatchSequences);
  std::vector<Status> statuses(batches);
  ParallelFor(batches, options.threads, [&](int i) {
    const size_t begin = size_t{kBatchSequences} * i, end = std::min(order.size(), begin + kBatchSequences);
    const Batch batch = MakeBatch(windows, std::span(order).subspan(begin, end - begin));
    const auto losses = BatchScorer(model, windows, batch, options).Run();
    if (!losses.ok()) statuses[i] = losses.error();
    for (size_t b = 0; losses.ok() && b < batch.members.size(); ++b) {
      SequenceScore& score = scores[batch.members[b]];
      const size_t n = windows[batch.members[b]].inputs.size();
      const at::Tensor counted = (losses.value() * batch.weights).contiguous();
      const float* row = counted.const_data_ptr<float>() + b * counted.size(1);
      score.nll.assign(row, row + n);
      score.untouched.assign(n, 0);
    }
  });
  for (const Status& status : statuses) POINTSMAN_CHECK_OK(status);
  return scores;
}

}  // namespace pointsman
