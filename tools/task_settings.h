// The --task-*, --test-* and --self-consistency options of eval.
#pragma once

#include "indexer/tasks/task_options.h"
#include "memory/result.h"
#include "tools/settings.h"

namespace pointsman {

// Errors (kInvalidArgument): an option that has no effect without --task; --task-strengths that are no numbers in 0..1
// or without a memory; a bad pattern or field.
Result<TaskOptions> TaskOptionsOf(const Settings& settings);

}  // namespace pointsman
