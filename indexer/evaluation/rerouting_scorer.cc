#include "indexer/evaluation/rerouting_scorer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <numeric>

#include "adapt/parallel.h"

namespace pointsman {
namespace {

constexpr uint32_t kBatchSequences = 8;

uint32_t HalfOf(const Sequence& s) { return static_cast<uint32_t>(s.inputs.size() / 2); }

Sequence FirstHalf(const Sequence& s) {
  const uint32_t half = HalfOf(s);
  Sequence first = s;
  first.inputs.resize(half);
  first.targets.resize(half);
  first.mask.assign(half, 1);
  return first;
}

Status ScoreBatch(const MoeModel& model, std::span<const Sequence> halves, const Batch& batch,
                  const ReroutedScoring& options, std::vector<SequenceScore>& scores) {
  std::vector<Sequence> firsts;
  std::vector<uint32_t> members, from;
  for (uint32_t member : batch.members) {
    members.push_back(static_cast<uint32_t>(firsts.size()));
    firsts.push_back(FirstHalf(halves[member]));
    from.push_back(options.recompute ? 0 : HalfOf(halves[member]));
  }
  const Batch contexts = MakeBatch(firsts, members);
  VectorBatch start;
  if (options.warm.tables) {
    POINTSMAN_TRY(start, MeanRetrieved(model, contexts, options.warm));
  }
  POINTSMAN_TRY(const Rerouted rerouted, Reroute(model, contexts, options.memory, start, options.rerouting));

  c10::AutoGradMode no_grad(false);
  ConstantMemory memory(options.memory, batch.ids.size(0));
  VectorHook hook(&memory, rerouted.vectors, from);
  const at::Tensor losses = TokenLosses(model, batch, &hook, memory.slots()).contiguous();
  POINTSMAN_CHECK_OK(hook.status());
  for (size_t b = 0; b < batch.members.size(); ++b) {
    SequenceScore& score = scores[batch.members[b]];
    const size_t n = halves[batch.members[b]].inputs.size();
    const float* row = losses.const_data_ptr<float>() + b * losses.size(1);
    score.nll.assign(row, row + n);
    score.untouched.assign(n, 0);
  }
  return {};
}

}  // namespace

std::vector<Sequence> SecondHalves(std::span<const Sequence> sequences) {
  std::vector<Sequence> halves;
  for (const Sequence& s : sequences) {
    if (s.inputs.size() < 2) continue;
    halves.push_back(s);
    std::fill_n(halves.back().mask.begin(), HalfOf(s), uint8_t{0});
  }
  return halves;
}

Result<std::vector<SequenceScore>> ScoreRerouted(const MoeModel& model, std::span<const Sequence> halves,
                                                 const ReroutedScoring& options) {
  std::vector<uint32_t> order(halves.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return halves[a].inputs.size() > halves[b].inputs.size(); });
  std::vector<SequenceScore> scores(halves.size());
  const int batches = static_cast<int>((order.size() + kBatchSequences - 1) / kBatchSequences);
  std::vector<Status> statuses(batches);
  ParallelFor(batches, options.threads, [&](int i) {
    const size_t begin = size_t{kBatchSequences} * i, end = std::min(order.size(), begin + kBatchSequences);
    const Batch batch = MakeBatch(halves, std::span(order).subspan(begin, end - begin));
    statuses[i] = ScoreBatch(model, halves, batch, options, scores);
  });
  for (const Status& status : statuses) POINTSMAN_CHECK_OK(status);
  return scores;
}

}  // namespace pointsman
