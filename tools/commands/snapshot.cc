// pointsman snapshot: a copy of a memory as it stands now, while it may be served and written.
#include "memory/snapshot.h"

#include <fmt/format.h>

#include "tools/command.h"

namespace pointsman {

Result<Output> RunSnapshot(const Settings& settings) {
  const std::filesystem::path directory = settings.Path("out");
  POINTSMAN_TRY(const SnapshotInfo info, CreateSnapshot(settings.Path("memory"), directory));
  return Output{.json = {{"snapshot", directory.string()},
                         {"name", info.name},
                         {"created", info.created_unix_s},
                         {"generation", info.generation},
                         {"digest", info.digest},
                         {"truth_sequence", info.truth_sequence},
                         {"files", info.files.size()},
                         {"bytes", info.bytes()},
                         {"sha256", info.sha256}},
                .text = fmt::format("{}: generation {}, {} files, {} bytes, sha256 {}\n", directory.string(),
                                    info.generation, info.files.size(), info.bytes(), info.sha256),
                .exit_code = 0};
}

}  // namespace pointsman
