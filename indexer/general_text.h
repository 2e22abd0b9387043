// Unrelated text for people who name none: several kinds found on the machine. The project ships no foreign text.
#pragma once

#include <string>
#include <vector>

#include "memory/file_layer.h"

namespace pointsman {

// Folders that exist here, of these kinds: licences, package documentation, library sources of scripting languages.
std::vector<std::string> FindGeneralText(FileSystem& files);

}  // namespace pointsman
