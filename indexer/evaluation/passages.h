// Chooses the report's examples (passage.h) from what was scored.
#pragma once

#include <memory>
#include <vector>

#include "indexer/evaluation/passage.h"
#include "indexer/evaluation/scorer.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/document_texts.h"
#include "models/loss_model.h"

namespace pointsman {

struct PassageInputs {  // borrowed
  const LossModel* model = nullptr;
  const ScoredText* test = nullptr;
  const ScoredText* unrelated = nullptr;
  const TokenScores* frozen = nullptr;
  const TokenScores* memory = nullptr;
  std::shared_ptr<const RoutingTables> tables = {};
  const DocumentTexts* texts = nullptr;
};

// The test documents with the best, the median and the worst gain, and the unrelated document that was changed most
// for the worse; of each the stretch that shows it best. Fewer where there are fewer documents.
Result<std::vector<Passage>> ChoosePassages(const PassageInputs& inputs);

}  // namespace pointsman
