#include "tools/corpus_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "indexer/corpus_group.h"
#include "indexer/progress.h"
#include "tools/own_program.h"

namespace pointsman {
namespace {

nlohmann::json IntervalJson(double low, double high) {
  return std::isfinite(low) && std::isfinite(high) ? nlohmann::json{low, high} : nlohmann::json(nullptr);
}

std::string IntervalText(double low, double high) {
  return std::isfinite(low) && std::isfinite(high) ? fmt::format("[{:+.4f}, {:+.4f}]", low, high)
                                                   : "[unknown: fewer than two documents]";
}

// Of the source of an option: 3 a flag, 2 the environment, 1 a file, 0 nobody.
int Nearness(const Settings& settings, std::string_view name) {
  for (const Setting& setting : settings.all()) {
    if (setting.option->name != name || setting.values.empty()) continue;
    return setting.source == "flag" ? 3 : setting.source.starts_with("environment") ? 2 : 1;
  }
  return 0;
}

}  // namespace

int ThreadsOf(const Settings& settings) {
  const auto given = static_cast<int>(settings.Integer("threads"));
  return given > 0 ? given : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Result<CorpusOptions> CorpusOptionsOf(const Settings& settings) {
  CorpusOptions options;
  options.model = settings.Path("model");
  options.corpus = settings.Texts("corpus");
  if (settings.Knows("group")) {
    POINTSMAN_TRY(options.groups, ParseCorpusGroups("--group", settings.Texts("group")));
    // Of the two the one that was set nearer to the command wins, as everywhere.
    const int corpus = Nearness(settings, "corpus"), group = Nearness(settings, "group");
    if (corpus < group) options.corpus.clear();
    if (group < corpus) options.groups.clear();
  }
  options.jsonl_fields = settings.Texts("jsonl-fields");
  if (settings.Knows("off-domain")) options.off_domain = settings.Texts("off-domain");
  options.seed = static_cast<uint64_t>(settings.Integer("seed"));
  options.max_tokens = static_cast<uint64_t>(settings.Integer("max-tokens"));
  options.max_test_tokens = static_cast<uint64_t>(settings.Integer("max-test-tokens"));
  options.split_by_library = settings.Flag("split-by-library");
  options.threads = ThreadsOf(settings);
  if (settings.Knows("progress") && settings.Text("progress") == "json") options.progress = ProgressStyle::kJson;
  return options;
}

Result<std::optional<HostOptions>> HostOptionsOf(const Settings& settings) {
  if (settings.Text("capture") == "runtime") {
    for (const Setting& setting : settings.all()) {
      const std::string_view name = setting.option->name;
      if (setting.source == "flag" && (name == "python" || name == "dtype" || name == "device")) {
        return Error{ErrorCode::kInvalidArgument, fmt::format("--{}: of --capture transformers only; add that", name)};
      }
    }
    return std::optional<HostOptions>();
  }
  // The package as it was built beside this program; an installed one is found without.
  return std::optional(HostOptions{.python = settings.Text("python"),
                                   .package = BesideThisProgram("python").string(),
                                   .dtype = settings.Text("dtype"),
                                   .device = settings.Text("device")});
}

const char* MemoryKindText(MemoryKind kind) { return kind == MemoryKind::kEntries ? "entries" : "prototypes"; }

const char* ValueKindText(ValueKind kind) {
  switch (kind) {
    case ValueKind::kDelta:
      return "delta";
    case ValueKind::kLogits:
      return "logits";
    case ValueKind::kAssignments:
      return "assignments";
  }
  return "unknown";
}

nlohmann::json VerdictJson(const VerdictSummary& verdict) {
  return {{"verdict", verdict.verdict},
          {"stale", verdict.stale},
          {"gain", verdict.gain},
          {"ci95", IntervalJson(verdict.gain_low, verdict.gain_high)},
          {"damage", verdict.damage},
          {"damage_ci95", IntervalJson(verdict.damage_low, verdict.damage_high)},
          {"documents", verdict.test_documents},
          {"tokens", verdict.test_tokens}};
}

std::string VerdictText(const VerdictSummary& verdict) {
  if (verdict.verdict == "absent") return "absent: run pointsman eval";
  return fmt::format(
      "{}{}: gain {:+.4f} {} nats per token on {} tokens of {} held-out documents, damage {:+.4f} {} on unrelated text",
      verdict.verdict, verdict.stale ? " (stale: the memory was written after it was scored)" : "", verdict.gain,
      IntervalText(verdict.gain_low, verdict.gain_high), FormatCount(verdict.test_tokens),
      FormatCount(verdict.test_documents), verdict.damage, IntervalText(verdict.damage_low, verdict.damage_high));
}

}  // namespace pointsman
