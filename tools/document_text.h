// A document of a memory's truth as the commands show it.
#pragma once

#include <nlohmann/json.hpp>

#include "memory/document.h"

namespace pointsman {

const char* SplitRoleText(SplitRole role);  // "reference", "calibration", "test"
nlohmann::json DocumentJson(const Document& document);

}  // namespace pointsman
