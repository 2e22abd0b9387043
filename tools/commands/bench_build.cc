// pointsman bench build: the build of a memory's values against PyTorch scripts that make the same.
#include <fmt/format.h>

#include "indexer/progress.h"
#include "tools/bench/build_bench.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunBenchBuild(const Settings& settings) {
  BuildBenchOptions options;
  options.data.model = settings.Path("model");
  for (const auto& path : settings.Paths("corpus")) options.data.corpus.push_back(path.string());
  options.data.seed = static_cast<uint64_t>(settings.Integer("seed"));
  options.data.max_tokens = static_cast<uint64_t>(settings.Integer("max-tokens"));
  options.data.max_test_tokens = 1;  // nothing is tested
  options.data.threads = static_cast<int>(settings.Integer("threads"));
  options.values = settings.Text("values");
  options.prototypes = static_cast<uint32_t>(settings.Integer("prototypes"));
  options.rounds = static_cast<int>(settings.Integer("rounds"));
  options.python = settings.Path("python");
  options.scripts = settings.Path("scripts");
  POINTSMAN_TRY(const BuildBenchReport report, BenchBuild(options));

  Output output;
  output.json = {{"values", options.values},
                 {"tokens", report.tokens},
                 {"threads", options.data.threads},
                 {"ours_tokens_per_s", report.ours.tokens_per_s},
                 {"ours_cpu_s", report.ours.cpu_seconds},
                 {"ours_nll", report.ours.nll},
                 {"baselines", nlohmann::json::array()}};
  const auto row = [&](const BuildBenchSide& side) {
    return fmt::format("{:<12} {:>12.0f} {:>8.2f} {:>14.1f} {:>10.4f}\n", side.name, side.tokens_per_s,
                       report.ours.tokens_per_s / side.tokens_per_s, side.cpu_seconds, side.nll);
  };
  output.text =
      fmt::format("{:<12} {:>12} {:>8} {:>14} {:>10}\n", "side", "tokens/s", "ours is", "CPU seconds", "nats") +
      row(report.ours);
  for (const BuildBenchSide& side : report.baselines) {
    output.json["baselines"].push_back({{"name", side.name},
                                        {"tokens_per_s", side.tokens_per_s},
                                        {"ratio", report.ours.tokens_per_s / side.tokens_per_s},
                                        {"cpu_s", side.cpu_seconds},
                                        {"nll", side.nll}});
    output.text += row(side);
  }
  output.text += fmt::format(
      "{} reference tokens into {} values, {} thread{} each; medians of {} rounds. nats = the loss that the values "
      "reach,\nwhich shows that all sides did the same work.\n",
      FormatCount(report.tokens), options.values, options.data.threads, options.data.threads == 1 ? "" : "s",
      options.rounds);
  return output;
}

}  // namespace pointsman
