// From the similarities of the neighbours to their weights and to the per-token confidence g (design.md 5, findings F1
// and F2). Pure functions of one row, fp32, in the order of the neighbours. Any number of threads.
#pragma once

#include <span>

#include "memory/layer_index.h"
#include "memory/routing_tables.h"

namespace pointsman {

// The neighbours that exist: SearchExact leaves the slots beyond the number of rows at similarity -2, at the end.
std::span<const Neighbour> FoundNeighbours(std::span<const Neighbour> neighbours);

// g in [0, 1] by `rule`; 0 without neighbours. A rounded key can lie at a cosine just above 1: clipped.
float Confidence(ConfidenceRule rule, float tau2, std::span<const Neighbour> found);

// w = softmax(s / tau) into weights [found.size()].
void NeighbourWeights(std::span<const Neighbour> found, float tau, std::span<float> weights);

}  // namespace pointsman
