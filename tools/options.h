// Every option of the command line, once: --name on the command line, POINTSMAN_NAME in the environment and name in a
// TOML file are the same row of one table, and so are their help, default and limits.
#pragma once

#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pointsman {

enum class OptionKind {
  kText,
  kTexts,  // may be given several times
  kPath,
  kPaths,  // several after one flag; separated by ':' in the environment
  kNames,  // one comma-separated list
  kInteger,
  kReal,
  kFlag,
  kChoice,
};

struct OptionSpec {
  std::string_view name = {};
  OptionKind kind = OptionKind::kText;
  std::string_view commands =
      {};  // keys of the commands that have it, separated by spaces ("docs-list" = docs list); "*" = all
  std::string_view value_name = {};  // for the help: DIR, N, ...
  std::string_view fallback = {};    // default; empty = none
  std::string_view help = {};        // meaning first, then what to mind
  std::string_view choices = {};     // of a kChoice, separated by spaces
  bool required = false;
  bool positional = false;  // on the command line only
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

std::span<const OptionSpec> AllOptions();
// Those of one command, in the order of the help.
std::vector<const OptionSpec*> OptionsOf(std::string_view command_key);
bool BelongsTo(const OptionSpec& option, std::string_view command_key);

std::string EnvironmentName(const OptionSpec& option);  // max-tokens -> POINTSMAN_MAX_TOKENS
std::vector<std::string> Split(std::string_view text, char separator);

}  // namespace pointsman
