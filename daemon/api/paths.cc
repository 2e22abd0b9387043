#include "daemon/api/paths.h"

#include <fmt/format.h>

#include <algorithm>

namespace pointsman {

ApiResult<std::filesystem::path> PathBelow(const std::filesystem::path& root, const std::string& relative,
                                           const std::string& param, std::string_view root_name) {
  const std::filesystem::path path(relative);
  bool plain = !relative.empty() && path.is_relative() && relative.find('\0') == std::string::npos;
  for (const auto& part : path) plain = plain && part != ".." && part != ".";
  if (!plain) return ApiError{ApiCode::kInvalidValue, fmt::format("{}: give a path below {}", param, root_name), param};
  // A link below the root may not lead out of it.
  std::error_code error;
  const auto real_root = std::filesystem::weakly_canonical(root, error),
             real = std::filesystem::weakly_canonical(root / path, error);
  const auto outside =
      std::mismatch(real_root.begin(), real_root.end(), real.begin(), real.end()).first != real_root.end();
  if (error || outside) {
    return ApiError{ApiCode::kInvalidValue, fmt::format("{}: leads out of {}", param, root_name), param};
  }
  return root / path;
}

ApiResult<std::filesystem::path> PathBelowMemoryRoot(const ApiContext& context, const std::string& relative,
                                                     const std::string& param) {
  const std::filesystem::path& root = context.options.memory_root;
  if (root.empty()) {
    return ApiError{ApiCode::kForbidden, "this server loads memories at its start only; it has no --memory-root",
                    param};
  }
  return PathBelow(root, relative, param, "the server's memory root");
}

}  // namespace pointsman
