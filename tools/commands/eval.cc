// pointsman eval and probe: the verdict on a memory, and the headroom before there is one.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "indexer/builder.h"
#include "memory/file_layer.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/rewire_settings.h"
#include "tools/task_settings.h"

namespace pointsman {
namespace {

constexpr int kRequirementNotMet = 3;

std::string TitleOf(const EvalOptions& options) {
  if (!options.memory.empty()) return options.memory.string();
  if (!options.data.corpus.empty()) return options.data.corpus.front();
  return fmt::format("{}", fmt::join(GroupNames(options.data.groups), ", "));
}

// Of those that nobody has chosen, what the engine can make.
std::vector<std::string> VariantsOf(const Settings& settings) {
  std::vector<std::string> names = settings.Texts("variants");
  const bool chosen = std::ranges::any_of(settings.all(), [](const Setting& setting) {
    return setting.option->name == "variants" && setting.source != "default";
  });
  if (chosen || settings.Text("capture") == "runtime") return names;
  const std::vector<std::string> can = VariantNamesInHost();
  std::erase_if(names, [&](const std::string& name) { return std::ranges::find(can, name) == can.end(); });
  return names;
}

// As a shell would read it back.
std::string Quoted(const std::string& word) {
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) || std::string_view("-_./,:=+@%#").find(c) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// The command line that was typed, from the options that came from it.
std::string CommandOf(const Settings& settings) {
  std::string command = "pointsman eval";
  for (const Setting& setting : settings.all()) {
    if (setting.source != "flag") continue;
    const std::string flag = fmt::format(" --{}", setting.option->name);
    std::vector<std::string> words;
    for (const std::string& value : setting.values) words.push_back(Quoted(value));
    const OptionKind kind = setting.option->kind;
    if (kind == OptionKind::kFlag) words = {""};
    const std::string_view between = kind == OptionKind::kNames ? "," : kind == OptionKind::kTexts ? "repeat" : " ";
    command += flag + (kind == OptionKind::kFlag ? "" : " ") +
               fmt::format("{}", fmt::join(words, between == "repeat" ? flag + " " : std::string(between)));
  }
  return command;
}

// For the page: when, how, and every option in force with where it came from.
void AddSettings(const Settings& settings, EvalReport& report) {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  report.provenance.push_back(
      {"evaluated", fmt::format("{:%Y-%m-%d %H:%M} UTC, Pointsman {}", fmt::gmtime(now), POINTSMAN_VERSION)});
  report.provenance.push_back({"command", CommandOf(settings)});
  for (const Setting& setting : settings.all()) {
    if (setting.values.empty()) continue;
    const std::string value = fmt::format("{}", fmt::join(setting.values, " "));
    report.settings.push_back({std::string(setting.option->name),
                               setting.source == "default" ? value : value + "  (" + setting.source + ")"});
  }
}

}  // namespace

Result<Output> RunEval(const Settings& settings) {
  EvalOptions options;
  POINTSMAN_TRY(options.data, CorpusOptionsOf(settings));
  options.memory = settings.Path("memory");
  options.test_corpus = settings.Texts("test-corpus");
  POINTSMAN_TRY(options.host, HostOptionsOf(settings));
  options.variants = VariantsOf(settings);
  options.min_gain = settings.Real("min-gain");
  options.damage_bound = settings.Real("damage-bound");
  options.seeds = static_cast<uint32_t>(settings.Integer("seeds"));
  options.generations = static_cast<uint32_t>(settings.Integer("generations"));
  options.generation_temperature = settings.Real("generation-temperature");
  POINTSMAN_TRY(options.rerouting, ReroutingOptionsOf(settings));
  options.rewire_interval = static_cast<uint32_t>(settings.Integer("rewire-interval"));
  options.rewire_recompute = settings.Text("rewire-kv") == "recompute";
  POINTSMAN_TRY(options.task, TaskOptionsOf(settings));
  if (options.memory.empty() && options.data.corpus.empty() && options.data.groups.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--corpus PATH is missing: give it, or a --memory that knows its own"};
  }
  options.passages = settings.Has("report");
  options.no_text = settings.Flag("no-text");
  POINTSMAN_TRY(EvalReport report, Evaluate(options));
  if (settings.Has("report")) {
    AddSettings(settings, report);
    POINTSMAN_CHECK_OK(FileSystem::Real().WriteAtomically(settings.Path("report"), ToHtml(report, TitleOf(options))));
  }
  Output output{.json = ToJson(report), .text = ToTable(report, isatty(STDOUT_FILENO) != 0), .exit_code = 0};
  if (settings.Has("require") && DecisionText(report.verdict) != settings.Text("require")) {
    output.exit_code = kRequirementNotMet;
  }
  return output;
}

Result<Output> RunProbe(const Settings& settings) {
  ProbeOptions options;
  POINTSMAN_TRY(options.data, CorpusOptionsOf(settings));
  options.sample_tokens = static_cast<uint64_t>(settings.Integer("sample-tokens"));
  options.min_gain = settings.Real("min-gain");
  POINTSMAN_TRY(const ProbeReport report, Probe(options));
  return Output{.json = ToJson(report), .text = ToTable(report), .exit_code = 0};
}

}  // namespace pointsman
