// pointsman bench route: what routing costs beside one decode step of a model of OLMoE-1B-7B's shape.
#include <fmt/format.h>

#include "indexer/progress.h"
#include "memory/scan_bench.h"
#include "tools/bench/route_bench.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunBenchRoute(const Settings& settings) {
  RouteBenchSpec spec;
  spec.shape = BenchShape(settings.Text("shape"));
  if (settings.Has("layers")) spec.shape.num_layers = settings.Integer("layers");
  spec.entries = static_cast<uint64_t>(settings.Integer("entries"));
  spec.prototypes = static_cast<uint32_t>(settings.Integer("prototypes"));
  spec.context = settings.Integer("context");
  spec.threads = static_cast<int>(settings.Integer("threads"));
  spec.rounds = static_cast<int>(settings.Integer("rounds"));
  if (spec.context >= spec.shape.max_positions) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--context {}: the shape has {} positions and one is for the new token; use less",
                             spec.context, spec.shape.max_positions)};
  }
  POINTSMAN_TRY(const RouteBenchReport report, BenchRoute(spec));

  Output output;
  output.json = {{"layers", spec.shape.num_layers}, {"entries_per_layer", spec.entries},
                 {"shape", settings.Text("shape")}, {"context", spec.context},
                 {"threads", spec.threads},         {"runs", nlohmann::json::array()}};
  output.text = fmt::format("{:<12} {:>10} {:>8} {:>12} {:>12} {:>9} {:>14}\n", "index", "rows", "recall", "route ms",
                            "decode ms", "ratio", "step with, ms");
  for (const RouteBenchRun& run : report.runs) {
    output.json["runs"].push_back({{"index", run.index},
                                   {"rows", run.rows},
                                   {"recall", run.recall},
                                   {"route_s_per_token", run.route_s},
                                   {"decode_s_per_token", run.decode_s},
                                   {"step_s_per_token", run.mixed_s},
                                   {"ratio", run.ratio()},
                                   {"bytes", run.bytes}});
    output.text += fmt::format("{:<12} {:>10} {:>8.4f} {:>12.3f} {:>12.2f} {:>8.2f}% {:>14.2f}\n", run.index,
                               FormatCount(run.rows), run.recall, run.route_s * 1e3, run.decode_s * 1e3,
                               run.ratio() * 100, run.mixed_s * 1e3);
  }
  const double decode_s = report.runs.front().decode_s;
  output.text += fmt::format(
      "{} layers, {}, random weights, {} positions cached, {} thread{}; medians of {} rounds, timed inside the step.\n"
      "A step reads {:.2f} GB of weights, at {:.1f} GB/s (a plain read here: {:.1f} GB/s).\n",
      spec.shape.num_layers, settings.Text("shape"), FormatCount(static_cast<uint64_t>(spec.context)), spec.threads,
      spec.threads == 1 ? "" : "s", spec.rounds, static_cast<double>(report.decode_bytes) / 1e9,
      static_cast<double>(report.decode_bytes) / 1e9 / decode_s, MeasureReadBandwidth());
  return output;
}

}  // namespace pointsman
