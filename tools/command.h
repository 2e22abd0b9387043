// A sub-command: its place in the help, and the function behind it. Each lives in its own file under tools/commands/.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "memory/result.h"
#include "tools/settings.h"

namespace pointsman {

// What a command has to say: `json` is printed with --json, `text` without.
struct Output {
  nlohmann::json json;
  std::string text;
  int exit_code = 0;  // 3: --require not met
};

struct Command {
  std::string_view key;      // "docs-list" is typed as: pointsman docs list
  std::string_view summary;  // one line
  std::string_view example;  // a whole command line or more
  Result<Output> (*run)(const Settings& settings) = nullptr;
};

std::span<const Command> AllCommands();

Result<Output> RunBuild(const Settings& settings);
Result<Output> RunEval(const Settings& settings);
Result<Output> RunProbe(const Settings& settings);
Result<Output> RunPlan(const Settings& settings);
Result<Output> RunGenerate(const Settings& settings);
Result<Output> RunInspect(const Settings& settings);
Result<Output> RunVerify(const Settings& settings);
Result<Output> RunSnapshot(const Settings& settings);
Result<Output> RunRestore(const Settings& settings);
Result<Output> RunRollback(const Settings& settings);
Result<Output> RunCompact(const Settings& settings);
Result<Output> RunDocsList(const Settings& settings);
Result<Output> RunDocsAdd(const Settings& settings);
Result<Output> RunDocsRemove(const Settings& settings);
Result<Output> RunBenchScan(const Settings& settings);
Result<Output> RunBenchRewire(const Settings& settings);
Result<Output> RunStudyRewire(const Settings& settings);
Result<Output> RunBenchRoute(const Settings& settings);
Result<Output> RunBenchHosts(const Settings& settings);
Result<Output> RunBenchBuild(const Settings& settings);
Result<Output> RunBenchDaemon(const Settings& settings);
Result<Output> RunServe(const Settings& settings);
Result<Output> RunKeysNew(const Settings& settings);
Result<Output> RunKeysList(const Settings& settings);
Result<Output> RunKeysRevoke(const Settings& settings);
Result<Output> RunConfig(const Settings& settings);

}  // namespace pointsman
