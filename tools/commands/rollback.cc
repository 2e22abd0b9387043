// pointsman rollback: publishes the generation before, verdict and all; once more returns.
#include <fmt/format.h>

#include "memory/memory.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunRollback(const Settings& settings) {
  const std::filesystem::path directory = settings.Path("memory");
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(directory, {}));
  POINTSMAN_TRY(const Manifest before, writer->manifest());
  const auto wanted = settings.Has("generation") ? static_cast<uint64_t>(settings.Integer("generation")) : uint64_t{0};
  POINTSMAN_TRY(const uint64_t generation, writer->Rollback(wanted));
  POINTSMAN_TRY(const Manifest now, writer->manifest());
  return Output{.json = {{"memory", directory.string()},
                         {"generation", generation},
                         {"before", before.generation},
                         {"digest", now.digest},
                         {"verdict", now.verdict.verdict}},
                .text = fmt::format("{}: generation {} instead of {}, verdict {}\n", directory.string(), generation,
                                    before.generation, now.verdict.verdict),
                .exit_code = 0};
}

}  // namespace pointsman
