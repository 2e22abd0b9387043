// pointsman compact: gives back the space of what was deleted or overwritten.
#include <fmt/format.h>

#include "memory/memory.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunCompact(const Settings& settings) {
  const std::filesystem::path directory = settings.Path("memory");
  POINTSMAN_TRY(const CompactReport report, CompactMemory(directory));
  return Output{
      .json = {{"memory", directory.string()},
               {"bytes_before", report.bytes_before},
               {"bytes_after", report.bytes_after}},
      .text = fmt::format("{}: {} bytes, {} before\n", directory.string(), report.bytes_after, report.bytes_before),
      .exit_code = 0};
}

}  // namespace pointsman
