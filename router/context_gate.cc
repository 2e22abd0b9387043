#include "router/context_gate.h"

#include <algorithm>
#include <array>

namespace pointsman {
namespace {

using PerGroup = std::array<double, kMostGateGroups>;

float RampValue(const GateGroup& group, double mean) {
  const double lo = group.lo;
  const double hi = group.hi;
  if (!(mean > lo)) return 0;  // NaN too
  if (mean >= hi) return 1;
  return static_cast<float>((mean - lo) / (hi - lo));
}

}  // namespace

void GateEvidence(const GateView& gate, int32_t previous, int32_t token, std::span<double> evidence) {
  if (previous < 0 || token < 0) {
    for (size_t group = 0; group < evidence.size(); ++group) evidence[group] = gate.groups[group].prior;
    return;
  }
  const uint64_t pair = uint64_t{static_cast<uint32_t>(previous)} << 32 | static_cast<uint32_t>(token);
  const auto found = std::lower_bound(gate.pairs.begin(), gate.pairs.end(), pair);
  const bool known = found != gate.pairs.end() && *found == pair;
  const size_t at = known ? static_cast<size_t>(found - gate.pairs.begin()) : 0;
  const double weight = known ? (gate.is_common[at] ? gate.common : 1.0) : 0.0;
  const uint32_t groups = known && !gate.pair_groups.empty() ? gate.pair_groups[at] : ~uint32_t{0};
  for (size_t group = 0; group < evidence.size(); ++group) evidence[group] = (groups >> group & 1) ? weight : 0.0;
}

double GateMean(const GateView& gate, size_t group, double sum, uint64_t count) {
  const double n0 = gate.n0;
  return (n0 * gate.groups[group].prior + sum) / (n0 + static_cast<double>(count));
}

float GateValue(const GateView& gate, std::span<const double> sums, uint64_t count) {
  float most = 0;
  for (size_t group = 0; group < sums.size(); ++group) {
    most = std::max(most, RampValue(gate.groups[group], GateMean(gate, group, sums[group], count)));
  }
  return most;
}

void GateState::Truncate(uint32_t position) {
  if (tokens_.size() <= position) return;
  sums_.resize(sums_.size() / tokens_.size() * position);
  tokens_.resize(position);
}

float GateState::Append(const GateView& gate, uint32_t position, int32_t token) {
  Truncate(position);
  while (tokens_.size() < position) Add(gate, kNoToken, kNoToken);
  Add(gate, tokens_.empty() ? kNoToken : tokens_.back(), token);
  return Value(gate, position);
}

void GateState::Add(const GateView& gate, int32_t previous, int32_t token) {
  const size_t groups = gate.groups.size();
  PerGroup evidence;
  GateEvidence(gate, previous, token, std::span(evidence).first(groups));
  const size_t before = sums_.size();
  for (size_t group = 0; group < groups; ++group) {
    sums_.push_back((before == 0 ? 0.0 : sums_[before - groups + group]) + evidence[group]);
  }
  tokens_.push_back(token);
}

float GateState::Value(const GateView& gate, size_t position) const {
  const size_t groups = gate.groups.size();
  const size_t count = std::min<size_t>(position + 1, gate.window);
  PerGroup sums;
  for (size_t group = 0; group < groups; ++group) {
    const double before = count <= position ? sums_[(position - count) * groups + group] : 0.0;
    sums[group] = sums_[position * groups + group] - before;
  }
  return GateValue(gate, std::span(sums).first(groups), count);
}

std::vector<float> GateState::History(const GateView& gate) const {
  std::vector<float> values;
  values.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) values.push_back(Value(gate, i));
  return values;
}

}  // namespace pointsman
