#include "router/context_gate.h"

#include "router/confidence.h"

namespace pointsman {

double GateSimilarity(const GateView& gate, std::span<const Neighbour> best) {
  const auto found = FoundNeighbours(best);
  if (found.empty()) return gate.prior;
  double sum = 0;
  for (const Neighbour& neighbour : found) sum += neighbour.similarity;
  return sum / static_cast<double>(found.size());
}

float GateValue(const GateView& gate, double sum, uint64_t count) {
  const double n0 = gate.n0;
  const double lo = gate.lo;
  const double hi = gate.hi;
  const double mean = (n0 * gate.prior + sum) / (n0 + static_cast<double>(count));
  if (!(mean > lo)) return 0;  // NaN too
  if (mean >= hi) return 1;
  return static_cast<float>((mean - lo) / (hi - lo));
}

void GateState::Truncate(uint32_t position) {
  if (sums_.size() > position) sums_.resize(position);
}

float GateState::Append(const GateView& gate, uint32_t position, double similarity) {
  Truncate(position);
  const auto sum = [&] { return sums_.empty() ? 0.0 : sums_.back(); };
  while (sums_.size() < position) sums_.push_back(sum() + gate.prior);
  sums_.push_back(sum() + similarity);
  return GateValue(gate, sums_.back(), sums_.size());
}

std::vector<float> GateState::History(const GateView& gate) const {
  std::vector<float> values;
  values.reserve(sums_.size());
  for (size_t i = 0; i < sums_.size(); ++i) values.push_back(GateValue(gate, sums_[i], i + 1));
  return values;
}

}  // namespace pointsman
