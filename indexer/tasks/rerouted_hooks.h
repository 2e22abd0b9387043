// Online rerouting for tasks: each item's vectors are learned from its prompt, then act on prompt and answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "adapt/objective.h"
#include "adapt/rerouting.h"
#include "indexer/evaluation/scorer.h"
#include "models/model.h"

namespace pointsman {

// What member `m` of a batch learns from is prompt_of(m); it is learned anew for every batch. The vectors act beside
// `memory` (without tables: beside the frozen router). `model` is borrowed.
HookFactory ReroutedHooks(const MoeModel& model, std::function<std::span<const int32_t>(uint32_t member)> prompt_of,
                          const MemoryBinding& memory, const ReroutingOptions& options,
                          std::shared_ptr<HookErrors> errors);

}  // namespace pointsman
