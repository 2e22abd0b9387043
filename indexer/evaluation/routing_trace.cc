#include "indexer/evaluation/routing_trace.h"

#include <c10/core/GradMode.h>

#include <algorithm>

#include "adapt/parallel.h"
#include "models/router_hook.h"
#include "models/row_sources.h"

namespace pointsman {
namespace {

LayerTally& TallyOf(RoutingTally& tally, int32_t layer) {
  auto at = std::lower_bound(tally.layers.begin(), tally.layers.end(), layer,
                             [](const LayerTally& t, int32_t wanted) { return t.layer < wanted; });
  if (at == tally.layers.end() || at->layer != layer) at = tally.layers.insert(at, LayerTally{.layer = layer});
  return *at;
}

void Count(const RowTrace& row, int64_t experts_per_token, RoutingTally& tally) {
  LayerTally& layer = TallyOf(tally, row.layer);
  const auto after = TopExperts(row.logits_after, experts_per_token);
  const size_t changed = Without(TopExperts(row.logits_before, experts_per_token), after).size();
  layer.tokens += 1;
  layer.changed_tokens += changed > 0;
  layer.changed_experts += changed;
  layer.weight_sum += static_cast<double>(row.gate) * row.confidence;
  if (!row.neighbours.empty()) layer.similarity_sum += row.neighbours.front().similarity;
  if (row.gate > 0) {
    layer.open_tokens += 1;
    layer.confidence_sum += row.confidence;
  }
}

RoutingTally TallyOf(const std::vector<RowTrace>& trace, const Sequence& sequence, int64_t experts_per_token) {
  RoutingTally tally;
  for (const RowTrace& row : trace) {
    if (!sequence.mask[row.row]) continue;
    Count(row, experts_per_token, tally);
    if (row.layer != trace.front().layer) continue;  // G is the same at every layer
    if (tally.gate_sum.size() <= row.row) tally.gate_sum.resize(row.row + 1), tally.gate_tokens.resize(row.row + 1);
    tally.gate_sum[row.row] += row.gate;
    tally.gate_tokens[row.row] += 1;
    tally.tokens += 1;
  }
  return tally;
}

void AddTo(RoutingTally& sum, const RoutingTally& part) {
  for (const LayerTally& layer : part.layers) {
    LayerTally& into = TallyOf(sum, layer.layer);
    into.tokens += layer.tokens;
    into.changed_tokens += layer.changed_tokens;
    into.changed_experts += layer.changed_experts;
    into.open_tokens += layer.open_tokens;
    into.confidence_sum += layer.confidence_sum;
    into.weight_sum += layer.weight_sum;
    into.similarity_sum += layer.similarity_sum;
  }
  const size_t positions = std::max(sum.gate_sum.size(), part.gate_sum.size());
  sum.gate_sum.resize(positions);
  sum.gate_tokens.resize(positions);
  for (size_t i = 0; i < part.gate_sum.size(); ++i) {
    sum.gate_sum[i] += part.gate_sum[i];
    sum.gate_tokens[i] += part.gate_tokens[i];
  }
  sum.tokens += part.tokens;
}

}  // namespace

Result<std::vector<RowTrace>> TraceSequence(const LossModel& model, const std::shared_ptr<const RoutingTables>& tables,
                                            const Sequence& sequence) {
  c10::AutoGradMode no_grad(false);
  Router router;
  RouterHook hook(router);
  hook.CollectTrace(true);
  Binding binding;
  binding.tables = tables;
  const std::vector<uint32_t> members{0};
  const Batch batch = MakeBatch(std::span(&sequence, 1), members);
  // The trace is all that is asked for.
  model.Losses(batch.ids, /*targets=*/{}, &hook, {router.AddSlot(std::move(binding))});
  POINTSMAN_CHECK_OK(model.status());
  POINTSMAN_CHECK_OK(hook.status());
  return hook.TakeTrace();
}

Result<RoutingTally> TallyRouting(const LossModel& model, const std::shared_ptr<const RoutingTables>& tables,
                                  std::span<const Sequence> sequences, const TallyOptions& options) {
  const uint64_t all = CountTargets(sequences);
  const size_t stride = std::max<uint64_t>(1, (all + options.max_tokens - 1) / options.max_tokens);
  std::vector<size_t> chosen;
  for (size_t i = 0; i < sequences.size(); i += stride) chosen.push_back(i);
  std::vector<RoutingTally> tallies(chosen.size());
  std::vector<Status> statuses(chosen.size());
  ParallelFor(static_cast<int>(chosen.size()), options.threads, [&](int i) {
    const Sequence& sequence = sequences[chosen[i]];
    const auto trace = TraceSequence(model, tables, sequence);
    if (trace.ok()) {
      tallies[i] = TallyOf(trace.value(), sequence, model.config().experts_per_token);
    } else {
      statuses[i] = trace.error();
    }
  });
  RoutingTally sum;
  for (size_t i = 0; i < chosen.size(); ++i) {
    POINTSMAN_CHECK_OK(statuses[i]);
    AddTo(sum, tallies[i]);
  }
  return sum;
}

RoutingSignal SignalOf(const RoutingTally& tally) {
  RoutingSignal signal{.tokens = tally.tokens};
  if (tally.tokens == 0 || tally.layers.empty()) return signal;
  const auto tokens = static_cast<double>(tally.tokens);
  const auto layers = static_cast<double>(tally.layers.size());
  for (const double gate : tally.gate_sum) signal.gate_mean += gate / tokens;
  for (const LayerTally& layer : tally.layers) {
    signal.confidence_mean += layer.weight_sum / tokens / layers;
    if (layer.open_tokens > 0) {
      signal.similarity_mean += layer.similarity_sum / static_cast<double>(layer.open_tokens) / layers;
    }
  }
  signal.open_share = static_cast<double>(tally.layers.front().open_tokens) / tokens;
  // Sums of fp32 may pass an end by a rounding.
  signal.gate_mean = std::min(signal.gate_mean, 1.0);
  signal.confidence_mean = std::min(signal.confidence_mean, 1.0);
  signal.similarity_mean = std::clamp(signal.similarity_mean, -1.0, 1.0);
  return signal;
}

}  // namespace pointsman
