#include "tools/own_program.h"

#include <system_error>

namespace pointsman {

std::string OwnExecutable() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

std::filesystem::path BesideThisProgram(std::string_view name) {
  return std::filesystem::path(OwnExecutable()).parent_path() / name;
}

}  // namespace pointsman
