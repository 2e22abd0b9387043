// What Evaluate() does about a task beside VariantMaker, which asks every variant that it scores.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "adapt/rerouting_options.h"
#include "indexer/evaluation/scoring.h"
#include "indexer/tasks/task_runner.h"
#include "indexer/tasks/task_score.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/model.h"

namespace pointsman {

// Fills run.task_marks of `rewiring` and `memory+rewiring`, which learn from an item's prompt; no-op for other
// variants.
Status AskRerouted(const TaskRunner& task, const MoeModel& model, std::shared_ptr<const RoutingTables> memory,
                   const ReroutingOptions& options, VariantRun& run);

// The reports of all variants that were asked, and of the memory at other strengths ("memory@0.5"), which are asked
// here. `memory` may be null without strengths.
Result<std::vector<TaskReport>> ReportTask(const TaskRunner& task, const MoeModel& model,
                                           const std::shared_ptr<const RoutingTables>& memory,
                                           std::span<const double> strengths, std::span<const VariantRun> runs);

}  // namespace pointsman
