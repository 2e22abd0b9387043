#include "router/blend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "router/confidence.h"

namespace pointsman {
namespace {

constexpr float kSmallestProbability = 1e-9f;

// Eight partial sums in a fixed order: the compiler can vectorise them without changing the result.
float Dot(std::span<const float> a, std::span<const float> b) {
  constexpr size_t kLanes = 8;
  std::array<float, kLanes> lanes{};
  size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  float tail = 0;
  for (; i < a.size(); ++i) tail += a[i] * b[i];
  return std::accumulate(lanes.begin(), lanes.end(), 0.0f) + tail;
}

// Where a token stands in the token table; nothing for one that has no row, such as an unknown token (negative).
std::optional<uint64_t> TokenRow(const LayerView& layer, int32_t token) {
  const auto id = static_cast<uint32_t>(token);
  if (token < 0) return std::nullopt;
  if (layer.token_ids.empty()) return id < layer.token_table_scales.size() ? std::optional<uint64_t>(id) : std::nullopt;
  const auto found = std::ranges::lower_bound(layer.token_ids, id);
  if (found == layer.token_ids.end() || *found != id) return std::nullopt;
  return static_cast<uint64_t>(found - layer.token_ids.begin());
}

}  // namespace

BlendOutcome Blender::Blend(const LayerView& layer, ValueKind kind, uint32_t top_k, const BlendInput& input,
                            std::span<float> logits) {
  BlendOutcome outcome;
  const LayerCalibration& calibration = layer.calibration;
  const auto found = FoundNeighbours(input.neighbours);
  outcome.confidence = Confidence(calibration.confidence, calibration.tau2, found);
  const float lambda = std::min(1.0f, input.strength * input.gate * outcome.confidence);
  if (lambda > 0) MixValues(layer, found);
  switch (kind) {
    case ValueKind::kDelta:
      outcome.touched = AddDelta(layer, input, outcome.confidence, logits);
      break;
    case ValueKind::kLogits:
      outcome.touched = lambda > 0;
      if (outcome.touched) {
        for (size_t e = 0; e < logits.size(); ++e) logits[e] = (1 - lambda) * logits[e] + lambda * mix_[e];
      }
      break;
    case ValueKind::kAssignments:
      outcome.touched = lambda > 0;
      if (outcome.touched) MoveAssignments(lambda, top_k, logits);
      break;
  }
  return outcome;
}

void Blender::MixValues(const LayerView& layer, std::span<const Neighbour> found) {
  weights_.resize(found.size());
  NeighbourWeights(found, layer.calibration.tau, weights_);
  mix_.assign(layer.experts, 0);
  for (size_t i = 0; i < found.size(); ++i) {
    const uint64_t row = found[i].row;
    const float weight = weights_[i] * layer.value_scales[row];
    const int8_t* codes = layer.values.data() + row * layer.experts;
    for (uint32_t e = 0; e < layer.experts; ++e) mix_[e] += weight * static_cast<float>(codes[e]);
  }
}

bool Blender::AddDelta(const LayerView& layer, const BlendInput& input, float confidence, std::span<float> logits) {
  const float weight = input.strength * input.gate;
  const bool has_mix = weight * confidence > 0;
  const std::optional<uint64_t> token_row = TokenRow(layer, input.token);
  if (!(weight > 0) || !(has_mix || token_row || !layer.router_delta.empty())) return false;

  const float mix_weight = has_mix ? confidence * layer.calibration.scale : 0;
  const float token_scale = token_row ? layer.token_table_scales[*token_row] : 0;
  const size_t experts = logits.size();
  for (size_t e = 0; e < experts; ++e) {
    float change = has_mix ? mix_weight * mix_[e] : 0;
    if (!layer.router_delta.empty()) {
      change += Dot(layer.router_delta.subspan(e * input.hidden.size(), input.hidden.size()), input.hidden);
    }
    if (token_row) change += token_scale * static_cast<float>(layer.token_table[*token_row * experts + e]);
    logits[e] += weight * change;
  }
  return true;
}

void Blender::MoveAssignments(float lambda, uint32_t top_k, std::span<float> logits) {
  const size_t experts = logits.size();
  const float largest = *std::max_element(logits.begin(), logits.end());
  probabilities_.resize(experts);
  float sum = 0;
  for (size_t e = 0; e < experts; ++e) sum += probabilities_[e] = std::exp(logits[e] - largest);
  for (float& q : probabilities_) q /= sum;

  // Ordered by logits, not by probabilities: two logits may differ where their fp32 probabilities do not.
  const size_t top = std::min<size_t>(top_k, experts);
  order_.resize(experts);
  std::iota(order_.begin(), order_.end(), 0);
  std::partial_sort(order_.begin(), order_.begin() + top, order_.end(),
                    [&](uint32_t a, uint32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  float mass = 0;
  for (size_t i = 0; i < top; ++i) mass += probabilities_[order_[i]];

  for (size_t e = 0; e < experts; ++e) logits[e] = (1 - lambda) * probabilities_[e] + lambda * mass * mix_[e];
  for (size_t i = top; i < experts; ++i) logits[order_[i]] += lambda * probabilities_[order_[i]];
  for (float& p : logits) p = std::log(std::max(p, kSmallestProbability));
}

}  // namespace pointsman
