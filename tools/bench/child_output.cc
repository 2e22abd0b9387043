#include "tools/bench/child_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>

namespace pointsman {
namespace {

std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

Result<nlohmann::json> JsonOfChild(const std::vector<std::string>& arguments, const std::string& remedy,
                                   const std::string& environment) {
  std::string command = environment;  // ours, and not quoted
  for (const std::string& argument : arguments) {
    // A bare name is the shell's to find.
    const bool program = &argument == &arguments.front() && argument.find('/') != std::string::npos;
    const bool needed = program || argument.ends_with(".py");
    if (needed && !std::filesystem::exists(argument)) {
      return Error{ErrorCode::kNotFound, fmt::format("{}: not there: run this in the source folder after {}, or give "
                                                     "--python and --scripts",
                                                     argument, remedy)};
    }
    command.append(" ").append(Quoted(argument));
  }
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (!pipe) return Error{ErrorCode::kInternal, arguments.front() + ": no process can be started"};
  std::string printed;
  std::array<char, 4096> part;
  for (size_t got = 0; (got = std::fread(part.data(), 1, part.size(), pipe)) > 0;) printed.append(part.data(), got);
  const int status = pclose(pipe);
  nlohmann::json answer = nlohmann::json::parse(printed, nullptr, /*allow_exceptions=*/false);
  if (status != 0 || !answer.is_object()) {
    return Error{
        ErrorCode::kInternal,
        fmt::format(
            "{}: failed, its message is above; {} installs what it needs",
            arguments[arguments.size() > 2 && arguments[1] == "-m" ? 2 : std::min<size_t>(1, arguments.size() - 1)],
            remedy)};
  }
  return answer;
}

}  // namespace pointsman
