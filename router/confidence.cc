#include "router/confidence.h"

#include <algorithm>
#include <cmath>

namespace pointsman {
namespace {

// Any cosine of two quantised unit vectors is above this; absent neighbours are at -2.
constexpr float kAbsentBelow = -1.5f;

float SumOfKernels(std::span<const Neighbour> found, float tau2) {
  float sum = 0;
  for (const Neighbour& neighbour : found) sum += std::exp((neighbour.similarity - 1) / tau2);
  return sum;
}

float Unclipped(ConfidenceRule rule, float tau2, std::span<const Neighbour> found) {
  const float count = static_cast<float>(found.size());
  switch (rule) {
    case ConfidenceRule::kMeanSimilarity: {
      float sum = 0;
      for (const Neighbour& neighbour : found) sum += neighbour.similarity;
      return std::exp((sum / count - 1) / tau2);
    }
    case ConfidenceRule::kMaxSimilarity:
      return std::exp((found.front().similarity - 1) / tau2);
    case ConfidenceRule::kMeanKernel:
      return SumOfKernels(found, tau2) / count;
    case ConfidenceRule::kAggregate:
      return SumOfKernels(found, tau2);
  }
  return 0;
}

}  // namespace

std::span<const Neighbour> FoundNeighbours(std::span<const Neighbour> neighbours) {
  size_t count = 0;
  while (count < neighbours.size() && neighbours[count].similarity > kAbsentBelow) ++count;
  return neighbours.first(count);
}

float Confidence(ConfidenceRule rule, float tau2, std::span<const Neighbour> found) {
  if (found.empty()) return 0;
  const float g = Unclipped(rule, tau2, found);
  if (!(g > 0)) return 0;  // NaN too: unusable constants mean no confidence
  return std::min(g, 1.0f);
}

void NeighbourWeights(std::span<const Neighbour> found, float tau, std::span<float> weights) {
  if (found.empty()) return;
  const float best = found.front().similarity;
  float sum = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    weights[i] = std::exp((found[i].similarity - best) / tau);
    sum += weights[i];
  }
  for (size_t i = 0; i < found.size(); ++i) weights[i] /= sum;
}

}  // namespace pointsman
