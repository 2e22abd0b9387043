// A document of a memory's truth as the commands show it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "memory/document.h"
#include "memory/split_role.h"

namespace pointsman {

std::string TimeText(int64_t unix_s);  // "2026-01-31T12:00:00Z"
nlohmann::json DocumentJson(const Document& document);

}  // namespace pointsman
