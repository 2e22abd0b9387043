// pointsman restore: the memory of a snapshot, checked byte by byte, in place of the one that is there or anew.
#include <fmt/format.h>

#include "memory/snapshot.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunRestore(const Settings& settings) {
  const std::filesystem::path snapshot = settings.Path("snapshot"), memory = settings.Path("out");
  POINTSMAN_TRY(const Manifest manifest, RestoreSnapshot(snapshot, memory));
  return Output{.json = {{"memory", memory.string()},
                         {"snapshot", snapshot.string()},
                         {"generation", manifest.generation},
                         {"digest", manifest.digest},
                         {"verdict", manifest.verdict.verdict}},
                .text = fmt::format("{}: generation {} of {}, verdict {}\n", memory.string(), manifest.generation,
                                    snapshot.string(), manifest.verdict.verdict),
                .exit_code = 0};
}

}  // namespace pointsman
