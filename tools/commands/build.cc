// pointsman build and plan: corpus -> memory, or what that would cost.
#include <fmt/format.h>

#include "indexer/builder.h"
#include "indexer/progress.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"

namespace pointsman {
namespace {

Result<BuildOptions> BuildOptionsOf(const Settings& settings) {
  BuildOptions options;
  POINTSMAN_TRY(options.data, CorpusOptionsOf(settings));
  options.kind = settings.Text("kind");
  options.preset = settings.Text("preset");
  options.blend = settings.Text("blend");
  options.layers = settings.Text("layers");
  options.output_memory = settings.Flag("output-memory");
  options.no_text = settings.Flag("no-text");
  return options;
}

nlohmann::json ToJson(const BuildReport& report) {
  const Manifest& manifest = report.manifest;
  nlohmann::json json = {{"kind", MemoryKindText(manifest.kind)},
                         {"generation", manifest.generation},
                         {"digest", manifest.digest},
                         {"reference_documents", manifest.reference_documents},
                         {"reference_tokens", manifest.reference_tokens},
                         {"rows", report.stats.rows},
                         {"derived_bytes", report.stats.derived_bytes},
                         {"truth_bytes", report.stats.truth_bytes},
                         {"verdict", VerdictJson(manifest.verdict)},
                         {"stages", nlohmann::json::array()},
                         {"notes", report.notes}};
  for (const StageTime& stage : report.stages) {
    json["stages"].push_back({{"stage", stage.stage}, {"seconds", stage.seconds}});
  }
  return json;
}

std::string ToText(const BuildReport& report, const std::string& out) {
  const Manifest& manifest = report.manifest;
  const double tokens = manifest.reference_tokens > 0 ? static_cast<double>(manifest.reference_tokens) : 1.0;
  std::string text = fmt::format("{}: {} of {} documents, {} tokens, generation {}\n", out,
                                 MemoryKindText(manifest.kind), FormatCount(manifest.reference_documents),
                                 FormatCount(manifest.reference_tokens), manifest.generation);
  text += fmt::format("{}\n", report.ingest.Summary());
  text += fmt::format("{} bytes to route with ({:.0f} a token), {} bytes of truth\n",
                      FormatCount(report.stats.derived_bytes), static_cast<double>(report.stats.derived_bytes) / tokens,
                      FormatCount(report.stats.truth_bytes));
  for (const StageTime& stage : report.stages) {
    text += fmt::format("  {:<12} {}\n", stage.stage, FormatDuration(stage.seconds));
  }
  for (const std::string& note : report.notes) text += fmt::format("note: {}\n", note);
  return text + fmt::format("verdict: {}\n", VerdictText(manifest.verdict));
}

}  // namespace

Result<Output> RunBuild(const Settings& settings) {
  POINTSMAN_TRY(BuildOptions options, BuildOptionsOf(settings));
  options.out = settings.Path("out");
  options.resume = settings.Flag("resume");
  options.min_gain = settings.Real("min-gain");
  options.damage_bound = settings.Real("damage-bound");
  POINTSMAN_TRY(options.host, HostOptionsOf(settings));
  POINTSMAN_TRY(const BuildReport report, BuildMemory(options));
  return Output{.json = ToJson(report), .text = ToText(report, options.out.string()), .exit_code = 0};
}

Result<Output> RunPlan(const Settings& settings) {
  POINTSMAN_TRY(const BuildOptions options, BuildOptionsOf(settings));
  POINTSMAN_TRY(const PlanReport report, Plan({.build = options}));
  return Output{.json = ToJson(report), .text = ToTable(report), .exit_code = 0};
}

}  // namespace pointsman
