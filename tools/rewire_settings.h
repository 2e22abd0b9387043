// The --rewire-* options, shared by generate and eval.
#pragma once

#include "adapt/rerouting_options.h"
#include "memory/result.h"
#include "tools/settings.h"

namespace pointsman {

// Errors (kInvalidArgument): --rewire-layers, --rewire-guard or --rewire-stop is not understood.
Result<ReroutingOptions> ReroutingOptionsOf(const Settings& settings);

}  // namespace pointsman
