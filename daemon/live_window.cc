#include "daemon/live_window.h"

#include <fmt/format.h>

#include <utility>

namespace pointsman {
namespace {

double Ratio(double sum, uint64_t count) { return count == 0 ? 0 : sum / static_cast<double>(count); }

// Confidence where the gate is open: how near the nearest keys are, whatever the share of open tokens.
double WhereOpen(const RoutingSignal& signal) {
  return signal.gate_mean > 0 ? signal.confidence_mean / signal.gate_mean : 0;
}

}  // namespace

void LiveWindow::Add(float gate, float confidence, std::span<const LayerSignal> layers) {
  const std::lock_guard lock(mutex_);
  if (newer_.tokens >= half_) older_ = std::exchange(newer_, Bucket());
  ++newer_.tokens;
  if (gate > 0) ++newer_.open;
  newer_.gate += gate;
  newer_.confidence += confidence;
  for (const LayerSignal& layer : layers) {
    LayerSums& sums = newer_.layers[layer.layer];
    sums.weight += layer.weight;
    sums.similarity += layer.similarity;
    ++sums.searched;
    if (layer.changed) ++sums.changed;
  }
}

LiveSignal LiveWindow::Read() const {
  const std::lock_guard lock(mutex_);
  Bucket sum = older_;
  sum.tokens += newer_.tokens;
  sum.open += newer_.open;
  sum.gate += newer_.gate;
  sum.confidence += newer_.confidence;
  for (const auto& [layer, part] : newer_.layers) {
    LayerSums& into = sum.layers[layer];
    into.weight += part.weight;
    into.similarity += part.similarity;
    into.searched += part.searched;
    into.changed += part.changed;
  }
  LiveSignal live;
  live.all.tokens = sum.tokens;
  live.all.open_share = Ratio(static_cast<double>(sum.open), sum.tokens);
  live.all.gate_mean = Ratio(sum.gate, sum.tokens);
  live.all.confidence_mean = Ratio(sum.confidence, sum.tokens);
  for (const auto& [layer, part] : sum.layers) {
    live.layers.push_back({.layer = layer,
                           .confidence_mean = Ratio(part.weight, sum.tokens),
                           .similarity_mean = Ratio(part.similarity, part.searched),
                           .changed_share = Ratio(static_cast<double>(part.changed), part.searched)});
    live.all.similarity_mean += live.layers.back().similarity_mean / static_cast<double>(sum.layers.size());
  }
  return live;
}

Drift DriftOf(const RoutingSignal& live, const std::optional<RoutingSignal>& calibration) {
  if (!calibration || calibration->tokens == 0) {
    return {.reason = "the memory was built without calibration figures: build it again to have a drift alarm"};
  }
  if (live.tokens < kDriftTokens) {
    return {.reason = fmt::format("{} tokens so far: {} are needed to tell", live.tokens, kDriftTokens)};
  }
  if (live.open_share < kDriftShare * calibration->open_share) {
    return {.alarm = true,
            .reason = fmt::format("the gate is open for {:.0f} % of tokens, for {:.0f} % of the text that the memory "
                                  "was built for: requests are about something else now",
                                  100 * live.open_share, 100 * calibration->open_share)};
  }
  if (WhereOpen(live) < kDriftShare * WhereOpen(*calibration)) {
    return {
        .alarm = true,
        .reason = fmt::format("where the gate is open, confidence is {:.2f} against {:.2f} in calibration: the text "
                              "reads alike, but the memory has nothing near it",
                              WhereOpen(live), WhereOpen(*calibration))};
  }
  return {};
}

}  // namespace pointsman
