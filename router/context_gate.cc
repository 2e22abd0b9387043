#include "router/context_gate.h"

#include <algorithm>

namespace pointsman {

double GateEvidence(const GateView& gate, int32_t previous, int32_t token) {
  if (previous < 0 || token < 0) return gate.prior;
  const uint64_t pair = uint64_t{static_cast<uint32_t>(previous)} << 32 | static_cast<uint32_t>(token);
  const auto found = std::lower_bound(gate.pairs.begin(), gate.pairs.end(), pair);
  if (found == gate.pairs.end() || *found != pair) return 0;
  return gate.is_common[found - gate.pairs.begin()] ? gate.common : 1.0;
}

double GateMean(const GateView& gate, double sum, uint64_t count) {
  const double n0 = gate.n0;
  return (n0 * gate.prior + sum) / (n0 + static_cast<double>(count));
}

float GateValue(const GateView& gate, double sum, uint64_t count) {
  const double lo = gate.lo;
  const double hi = gate.hi;
  const double mean = GateMean(gate, sum, count);
  if (!(mean > lo)) return 0;  // NaN too
  if (mean >= hi) return 1;
  return static_cast<float>((mean - lo) / (hi - lo));
}

void GateState::Truncate(uint32_t position) {
  if (seen_.size() > position) seen_.resize(position);
}

float GateState::Append(const GateView& gate, uint32_t position, int32_t token) {
  Truncate(position);
  const auto sum = [&] { return seen_.empty() ? 0.0 : seen_.back().sum; };
  while (seen_.size() < position) seen_.push_back({sum() + gate.prior, kNoToken});
  const int32_t previous = seen_.empty() ? kNoToken : seen_.back().token;
  seen_.push_back({sum() + GateEvidence(gate, previous, token), token});
  return Value(gate, position);
}

float GateState::Value(const GateView& gate, size_t position) const {
  const size_t count = std::min<size_t>(position + 1, gate.window);
  const double before = count <= position ? seen_[position - count].sum : 0.0;
  return GateValue(gate, seen_[position].sum - before, count);
}

std::vector<float> GateState::History(const GateView& gate) const {
  std::vector<float> values;
  values.reserve(seen_.size());
  for (size_t i = 0; i < seen_.size(); ++i) values.push_back(Value(gate, i));
  return values;
}

std::vector<int32_t> GateState::Tokens() const {
  std::vector<int32_t> tokens;
  tokens.reserve(seen_.size());
  for (const Seen& seen : seen_) tokens.push_back(seen.token);
  return tokens;
}

}  // namespace pointsman
