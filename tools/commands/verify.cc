// pointsman verify: every byte of a memory against its checksums; --repair rebuilds what derives from the truth.
#include <fmt/format.h>

#include "memory/memory.h"
#include "tools/command.h"

namespace pointsman {
namespace {

constexpr int kUnsound = 1;

// The writer's lock ends with this function: Verify() takes it again.
Status Repair(const std::filesystem::path& directory) {
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(directory, {}));
  return writer->RebuildDerived();
}

std::string Line(const Finding& finding) {
  // A problem that names a file below `file` says more than `file`.
  if (finding.problem.starts_with(finding.file)) return finding.problem + "\n";
  return fmt::format("{}: {}\n", finding.file, finding.problem);
}

}  // namespace

Result<Output> RunVerify(const Settings& settings) {
  const std::filesystem::path directory = settings.Path("memory");
  POINTSMAN_TRY(std::vector<Finding> findings, Verify(directory));
  std::string text;
  bool repaired = false;
  if (!findings.empty() && settings.Flag("repair")) {
    for (const Finding& finding : findings) text += "found: " + Line(finding);
    POINTSMAN_CHECK_OK(Repair(directory));
    POINTSMAN_TRY(findings, Verify(directory));
    repaired = findings.empty();
  }
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"file", finding.file}, {"problem", finding.problem}});
    text += Line(finding);
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
