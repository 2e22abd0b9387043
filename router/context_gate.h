// The context gate G of one sequence: how much the text so far reads like the memory's reference text
// (memory/routing_tables.h has the formula).
//
// The running sum and the token are kept for every position, sums in double: rewinding is a truncation, and a prefill
// gives the same bits as token by token, because both add the same numbers in the same order. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/routing_tables.h"
#include "router/blend.h"

namespace pointsman {

// e of `token` after `previous` for each group [groups]; its prior if either is negative: unknown.
void GateEvidence(const GateView& gate, int32_t previous, int32_t token, std::span<double> evidence);

// m of one group, and G, where the last `count` tokens, gate.window of them at most, have evidence that sums to `sum`,
// to `sums` [groups].
double GateMean(const GateView& gate, size_t group, double sum, uint64_t count);
float GateValue(const GateView& gate, std::span<const double> sums, uint64_t count);

class GateState {
 public:
  // Forgets every position at or above `position`.
  void Truncate(uint32_t position);

  // Records the token at `position`, in place of what was known from there on, and returns G. Positions before it that
  // were never recorded count as each group's prior: unknown text, and so does a negative one.
  float Append(const GateView& gate, uint32_t position, int32_t token);

  uint32_t recorded() const { return static_cast<uint32_t>(tokens_.size()); }
  // G after each recorded position.
  std::vector<float> History(const GateView& gate) const;
  const std::vector<int32_t>& tokens() const { return tokens_; }  // by recorded position

 private:
  void Add(const GateView& gate, int32_t previous, int32_t token);
  float Value(const GateView& gate, size_t position) const;

  std::vector<int32_t> tokens_;  // by position
  std::vector<double> sums_;     // [positions, groups]: e_0 + .. + e_position
};

}  // namespace pointsman
