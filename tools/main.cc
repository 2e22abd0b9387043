// The pointsman command: finds the sub-command, settles its options, runs it, prints what it says.
//
// Exit status: 0 done, 1 failed, 2 wrong use, 3 --require not met. Results go to stdout, everything else to stderr.
#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <optional>

#include "memory/nearest_word.h"
#include "models/model.h"
#include "tools/command.h"

namespace pointsman {
namespace {

constexpr int kDone = 0, kFailed = 1, kWrongUse = 2;

// The flags that CLI11 found, per option; owned here because CLI11 keeps references.
using FlagStorage = std::map<std::string, std::vector<std::string>, std::less<>>;

std::string HelpOf(const OptionSpec& option) {
  std::string help{option.help};
  if (!option.choices.empty()) help += fmt::format(": {}", fmt::join(Split(option.choices, ' '), ", "));
  if (option.required) help += " (required)";
  if (!option.fallback.empty()) help += fmt::format(" [{}]", option.fallback);
  return help;
}

void AddOptions(CLI::App& app, std::string_view command_key, FlagStorage& storage) {
  for (const OptionSpec* option : OptionsOf(command_key)) {
    std::vector<std::string>& values = storage[std::string(option->name)];
    const std::string name = option->positional ? std::string(option->name) : fmt::format("--{}", option->name);
    // const: CLI11 takes a mutable string here for the place where a flag's value goes.
    const std::string help = HelpOf(*option);
    if (option->kind == OptionKind::kFlag) {
      app.add_flag(name, help);
      continue;
    }
    CLI::Option* added = app.add_option(name, values, help)->type_name(std::string(option->value_name))->type_size(1);
    if (option->kind == OptionKind::kPaths) {
      added->expected(1, CLI::detail::expected_max_vector_size);
    } else if (option->kind == OptionKind::kTexts) {
      added->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    } else {
      added->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::Throw);
    }
  }
}

RawOptions FlagsOf(const CLI::App& app, std::string_view command_key, const FlagStorage& storage) {
  RawOptions flags;
  for (const OptionSpec* option : OptionsOf(command_key)) {
    const std::string name = option->positional ? std::string(option->name) : fmt::format("--{}", option->name);
    if (app.get_option(name)->count() == 0) continue;
    const std::string key{option->name};
    flags[key] = option->kind == OptionKind::kFlag ? std::vector<std::string>{"true"} : storage.at(key);
  }
  return flags;
}

std::vector<std::string> CommandKeys() {
  std::vector<std::string> keys;
  for (const Command& command : AllCommands()) keys.emplace_back(command.key);
  return keys;
}

Result<Output> Run(const Command& command, const RawOptions& flags, bool& json) {
  WarnOfUnknownEnvironment();
  const RawOptions environment = ReadEnvironment();
  std::optional<ConfigFile> file;
  const RawOptions& names_file = flags.contains("config") ? flags : environment;
  if (const auto path = names_file.find("config"); path != names_file.end()) {
    POINTSMAN_TRY(file, ReadConfigFile(path->second.front(), CommandKeys()));
  }
  POINTSMAN_TRY(const Settings settings, Settings::Resolve(command.key, flags, environment, file ? &*file : nullptr));
  json = settings.Flag("json");
  POINTSMAN_CHECK_OK(settings.CheckRequired());
  return command.run(settings);
}

// One sub-command ("docs-list" becomes `docs list`) with its options; the returned app tells whether it was typed.
CLI::App* AddCommand(CLI::App& root, const Command& command, FlagStorage& storage) {
  CLI::App* parent = &root;
  std::string name{command.key};
  if (const size_t dash = name.find('-'); dash != std::string::npos) {
    const std::string group = name.substr(0, dash);
    name.erase(0, dash + 1);
    const auto groups = root.get_subcommands([&](CLI::App* app) { return app->get_name() == group; });
    parent =
        groups.empty() ? root.add_subcommand(group, fmt::format("see pointsman {} --help", group)) : groups.front();
    parent->require_subcommand(1);
  }
  CLI::App* app = parent->add_subcommand(name, std::string(command.summary));
  app->footer(
      fmt::format("Example:\n  {}\n\nEvery option may also be a POINTSMAN_* variable or a key of the --config file.",
                  command.example));
  AddOptions(*app, command.key, storage);
  return app;
}

std::string Explain(const CLI::ParseError& error, const CLI::App& root) {
  const std::vector<std::string> extra = root.remaining(true);
  if (extra.empty()) return fmt::format("{}; see --help", error.what());
  std::vector<std::string> known;
  for (const OptionSpec& option : AllOptions()) known.push_back(fmt::format("--{}", option.name));
  const std::string nearest = NearestWord(extra.front(), known);
  const bool is_option = extra.front().starts_with("-");
  return fmt::format(
      "unknown {} '{}'{}; see --help", is_option ? "option" : "argument", extra.front(),
      is_option && !nearest.empty() && nearest != extra.front() ? fmt::format(" (did you mean {}?)", nearest) : "");
}

int Main(int argc, char** argv) {
  auto logger = spdlog::stderr_color_mt("pointsman");
  logger->set_pattern("%^%l%$: %v");
  spdlog::set_default_logger(logger);

  CLI::App root("A memory that corrects the routing of a Mixture-of-Experts language model, and a verdict on it.",
                "pointsman");
  root.require_subcommand(1);
  root.set_version_flag("--version", "pointsman " POINTSMAN_VERSION);
  root.footer("Exit status: 0 done, 1 failed, 2 wrong use, 3 --require not met.");
  std::map<const Command*, FlagStorage> storage;
  std::map<const Command*, CLI::App*> apps;
  for (const Command& command : AllCommands()) apps[&command] = AddCommand(root, command, storage[&command]);

  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help, --version
    return root.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "pointsman: {}\n", Explain(error, root));
    return kWrongUse;
  }
  for (const Command& command : AllCommands()) {
    if (!apps[&command]->parsed()) continue;
    bool json = false;
    const Result<Output> result = Run(command, FlagsOf(*apps[&command], command.key, storage[&command]), json);
    if (!result.ok()) {
      fmt::print(stderr, "pointsman: {}\n", result.error().message);
      return result.error().code == ErrorCode::kInvalidArgument ? kWrongUse : kFailed;
    }
    const Output& output = result.value();
    fmt::print("{}{}", json ? output.json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) : output.text,
               json ? "\n" : "");
    if (std::fflush(stdout) != 0) {
      fmt::print(stderr, "pointsman: standard output could not be written: the result above is incomplete\n");
      return kFailed;
    }
    return output.exit_code;
  }
  return kDone;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  pointsman::TuneRuntime();  // before anything is allocated: freed pages are kept
  try {
    return pointsman::Main(argc, argv);
  } catch (const std::exception& error) {  // of a library, past its module: a defect of ours
    fmt::print(stderr, "pointsman: internal error: {}; please report this with the command line\n", error.what());
    return 1;
  }
}
