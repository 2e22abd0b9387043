// The names of the splits, as the commands and the API write them.
#pragma once

#include "memory/document.h"

namespace pointsman {

const char* SplitRoleText(SplitRole role);  // "reference", "calibration", "test"

}  // namespace pointsman
