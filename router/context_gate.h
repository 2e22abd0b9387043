// The context gate G of one sequence (findings F3): how much the text so far resembles the memory.
//   s_t = mean of the best k cosines of the token's router input to the gate's centroids, at the gate's layer
//   m_t = (n0 * prior + s_1 + .. + s_t) / (n0 + t)        G_t = clip((m_t - lo) / (hi - lo), 0, 1)
// The running sum is kept for every position, in double: rewinding is a truncation, and a prefill gives the same bits
// as token by token, because both add the same numbers in the same order. One thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/layer_index.h"
#include "memory/routing_tables.h"

namespace pointsman {

// s_t of one token; the prior when the gate has no centroids.
double GateSimilarity(const GateView& gate, std::span<const Neighbour> best);

// G after `count` tokens whose similarities sum to `sum`.
float GateValue(const GateView& gate, double sum, uint64_t count);

class GateState {
 public:
  // Forgets every position at or above `position`.
  void Truncate(uint32_t position);

  // Records s of `position`, in place of what was known from there on, and returns G. Positions before it that were
  // never recorded (their steps ran with the kill switch on, or broke off) count as `gate.prior`: unknown text.
  float Append(const GateView& gate, uint32_t position, double similarity);

  uint32_t recorded() const { return static_cast<uint32_t>(sums_.size()); }
  // G after each recorded position.
  std::vector<float> History(const GateView& gate) const;

 private:
  std::vector<double> sums_;  // [position] = s_0 + .. + s_position
};

}  // namespace pointsman
