// pointsman verify: every byte of a memory against its checksums; --repair rebuilds what derives from the truth.
#include <fmt/format.h>

#include "memory/memory.h"
#include "tools/command.h"

namespace pointsman {
namespace {

constexpr int kUnsound = 1;

}  // namespace

Result<Output> RunVerify(const Settings& settings) {
  const std::filesystem::path directory = settings.Path("memory");
  POINTSMAN_TRY(std::vector<Finding> findings, Verify(directory));
  std::string text;
  bool repaired = false;
  if (!findings.empty() && settings.Flag("repair")) {
    for (const Finding& finding : findings) text += fmt::format("found: {}: {}\n", finding.file, finding.problem);
    POINTSMAN_TRY(const auto writer, MemoryWriter::Open(directory, {}));
    POINTSMAN_CHECK_OK(writer->RebuildDerived());
    POINTSMAN_TRY(findings, Verify(directory));
    repaired = findings.empty();
  }
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"file", finding.file}, {"problem", finding.problem}});
    text += fmt::format("{}: {}\n", finding.file, finding.problem);
  }
  if (findings.empty()) {
    text += fmt::format("{}: {}\n", directory.string(), repaired ? "repaired, and sound now" : "sound");
  } else {
    text +=
        settings.Flag("repair")
            ? fmt::format("{}: not repairable from its truth: restore a copy, or build it again\n", directory.string())
            : fmt::format("{}: damaged; pointsman verify --repair rebuilds what derives from the truth\n",
                          directory.string());
  }
  return Output{.json = {{"sound", findings.empty()}, {"repaired", repaired}, {"findings", std::move(list)}},
                .text = std::move(text),
                .exit_code = findings.empty() ? 0 : kUnsound};
}

}  // namespace pointsman
