// A program that is run for what it prints.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

// Runs `arguments` (the program first) with `environment` ("NAME=VALUE" or empty) and reads the JSON document that it
// prints; its stderr is ours. Errors: kNotFound (no such program, or no file of an argument that ends in .py: names
// `remedy`), kInternal (it failed, or printed no JSON).
Result<nlohmann::json> JsonOfChild(const std::vector<std::string>& arguments, const std::string& remedy,
                                   const std::string& environment = {});

}  // namespace pointsman
