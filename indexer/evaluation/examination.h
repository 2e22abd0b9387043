// Where a memory helps: the test split's losses under frozen and memory, token by token, in groups (breakdown.h).
#pragma once

#include <memory>

#include "indexer/evaluation/breakdown.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/evaluation/statistics.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/loss_model.h"

namespace pointsman {

struct ExaminationInputs {  // borrowed
  const LossModel* model = nullptr;
  const ScoredText* test = nullptr;
  const TokenScores* frozen = nullptr;
  const TokenScores* memory = nullptr;
  std::shared_ptr<const RoutingTables> tables = {};  // of `memory`
  StatisticsOptions statistics = {};
  int threads = 1;
};

// Groups of kinds are ordered by size and at most kMaxKinds a grouping, the rest together as "others"; a memory's own
// groups are all there.
inline constexpr size_t kMaxKinds = 12;
Result<Breakdown> Examine(const ExaminationInputs& inputs);

}  // namespace pointsman
