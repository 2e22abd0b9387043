// The output memory (kNN-LM): the next tokens of similar reference tokens vote on the model's output. For one row of
// logits z with p = softmax(z), neighbours j with similarities s_j and next tokens y_j, and a weight w in (0, 1):
//   p'_v = (1 - w) p_v + w sum_j a_j [y_j = v],    a = softmax_j(s_j / tau),    w = lambda * strength * G * g,
//   g = exp((max_j s_j - 1) / tau2)
// Written as logits of p' that leave every token without a vote its bits (softmax does not see a common factor):
//   z'_v = L + log(exp(z_v - L) + w / (1 - w) * sum_j a_j [y_j = v]),    L = log sum_u exp(z_u)
// A weight of 0 writes nothing: a branch, so that the row keeps its bits.
//
// All sums in double, in a fixed order: L over the vocabulary, a over the neighbours best first, a token's votes in the
// order of its neighbours. The same bits on every thread and machine of one libm. No LibTorch here.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "memory/layer_index.h"
#include "memory/routing_tables.h"

namespace pointsman {

// Mixes rows; keeps its scratch memory between them. One thread at a time.
class OutputVoter {
 public:
  // `neighbours` best first, absent ones (similarity -2) at the end are skipped; `weight` is lambda * strength * G.
  // Returns whether the row was written: false for a weight of 0 or below, or without neighbours.
  // REQUIRES: logits is [output.vocabulary] and finite; neighbour rows are below output.keys.rows; weight < 1.
  bool Vote(const OutputView& output, std::span<const Neighbour> neighbours, double weight, std::span<float> logits);

 private:
  std::vector<double> weights_;                    // [k]
  std::vector<std::pair<int32_t, double>> votes_;  // (token, weight), by token
};

// log sum exp of a row of finite logits, in double.
double LogSumExp(std::span<const float> logits);

}  // namespace pointsman
