// Paths that clients name: below a directory of the operator's, whatever they write.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "daemon/api/context.h"
#include "daemon/json_body.h"

namespace pointsman {

// root / relative. kInvalidValue naming `param` if it is empty, absolute, has "." or ".." in it, or leads out of the
// root through a link. `root_name`: "the server's memory root", for messages. REQUIRES: root is not empty.
ApiResult<std::filesystem::path> PathBelow(const std::filesystem::path& root, const std::string& relative,
                                           const std::string& param, std::string_view root_name);

// Below --memory-root; kForbidden without one.
ApiResult<std::filesystem::path> PathBelowMemoryRoot(const ApiContext& context, const std::string& relative,
                                                     const std::string& param);

}  // namespace pointsman
