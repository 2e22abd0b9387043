#include "router/output_vote.h"

#include <algorithm>
#include <cmath>

#include "router/confidence.h"

namespace pointsman {

double LogSumExp(std::span<const float> logits) {
  const double most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float z : logits) sum += std::exp(z - most);
  return most + std::log(sum);
}

bool OutputVoter::Vote(const OutputView& output, std::span<const Neighbour> neighbours, double weight,
                       std::span<float> logits) {
  const std::span<const Neighbour> found = FoundNeighbours(neighbours);
  weight *= Confidence(ConfidenceRule::kMaxSimilarity, output.tau2, found);
  if (!(weight > 0)) return false;
  const double tau = output.tau, nearest = found.front().similarity;
  double total = 0;
  weights_.clear();
  for (const Neighbour& n : found) {
    weights_.push_back(std::exp((n.similarity - nearest) / tau));
    total += weights_.back();
  }
  votes_.clear();
  for (size_t i = 0; i < found.size(); ++i) votes_.emplace_back(output.next_tokens[found[i].row], weights_[i] / total);
  std::stable_sort(votes_.begin(), votes_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });

  const double normalizer = LogSumExp(logits), odds = weight / (1 - weight);
  for (size_t i = 0; i < votes_.size();) {
    const int32_t token = votes_[i].first;
    double vote = 0;
    for (; i < votes_.size() && votes_[i].first == token; ++i) vote += votes_[i].second;
    if (vote == 0) continue;  // so far behind the nearest that its weight is no double
    logits[token] = static_cast<float>(normalizer + std::log(std::exp(logits[token] - normalizer) + odds * vote));
  }
  return true;
}

}  // namespace pointsman
