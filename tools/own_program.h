// Where this program is, and what stands beside it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace pointsman {

// Path of the running program; empty if it cannot be told.
std::string OwnExecutable();
// Of what was built beside it: another program, or "python", the folder of the Python package.
std::filesystem::path BesideThisProgram(std::string_view name);

}  // namespace pointsman
