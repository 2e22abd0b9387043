// What the engine refuses before anything runs: a request, memory or session that the model cannot serve. A pass holds
// rows of many requests, and one whose shapes do not fit would fail it for all. Any thread.
#pragma once

#include "daemon/engine/engine.h"
#include "memory/result.h"
#include "models/config.h"

namespace pointsman {

// kInvalidArgument, naming the option, layer or length.
Status CheckTask(const MoeConfig& config, const CompletionTask& task);
Status CheckTask(const MoeConfig& config, const LearnTask& task);

}  // namespace pointsman
