// The controls of the verdict: the memory's true weights with the wrong content. They average to a bias, so they must
// not beat one; `memory` must beat both (design.md 8).
//
// What is not retrieved (router delta, token table) is left out of them: it is content that no neighbour brings. So is
// an output memory: they control the routing.
#pragma once

#include <cstdint>
#include <memory>

#include "adapt/objective.h"
#include "indexer/evaluation/scorer.h"
#include "memory/routing_tables.h"

namespace pointsman {

// Values permuted among the rows of each layer.
std::shared_ptr<const RoutingTables> ShuffledValues(const RoutingTables& tables, uint64_t seed);

// Every neighbour's row replaced by one drawn for this (layer, sequence row, rank), the similarities kept.
HookFactory RandomNeighbours(std::shared_ptr<const RoutingTables> tables, uint64_t seed);

}  // namespace pointsman
