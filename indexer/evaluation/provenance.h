// Where a verdict comes from: the model, the memory and the texts, as facts for the report's page.
#pragma once

#include <span>
#include <vector>

#include "indexer/builder.h"
#include "indexer/evaluation/report.h"
#include "indexer/evaluation/scorer.h"
#include "memory/document.h"
#include "memory/memory.h"
#include "models/loss_model.h"

namespace pointsman {

// `memory` may be null. `documents`: reference and calibration; `unrelated`: what damage was measured on. Names of
// files are as the user gave them.
std::vector<ReportFact> ProvenanceOf(const EvalOptions& options, const LossModel& model, const Memory* memory,
                                     std::span<const Document> documents, const ScoredText& unrelated);

}  // namespace pointsman
