// The context gate for hooks that do not go through router/: G of every row of a batch.
#pragma once

#include <vector>

#include "memory/routing_tables.h"
#include "models/routing_hook.h"

namespace pointsman {

// One G a row, in the order of step.tokens; a position of 0 begins another sequence.
std::vector<float> GateOfRows(const GateView& gate, const StepInfo& step);

}  // namespace pointsman
