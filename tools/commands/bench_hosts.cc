// pointsman bench hosts: what a memory costs inside each host.
#include <fmt/format.h>

#include "tools/bench/hosts_bench.h"
#include "tools/bench/route_bench.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunBenchHosts(const Settings& settings) {
  HostsBenchOptions options;
  options.hosts = settings.Texts("hosts");
  options.shape = BenchShape(settings.Text("shape"));
  if (settings.Has("layers")) options.shape.num_layers = settings.Integer("layers");
  options.entries = static_cast<uint64_t>(settings.Integer("entries"));
  options.batches.clear();
  for (const std::string& batch : settings.Texts("batch")) {
    const int64_t rows = std::atoll(batch.c_str());
    if (rows < 1 || rows > 4096) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("--batch {}: use whole numbers, 1 to 4096", batch)};
    }
    options.batches.push_back(rows);
  }
  options.prompt = settings.Integer("prompt-tokens");
  if (options.prompt >= options.shape.max_positions) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("--prompt-tokens {}: the shape has {} positions; use less",
                                                          options.prompt, options.shape.max_positions)};
  }
  options.rounds = static_cast<int>(settings.Integer("rounds"));
  options.threads = static_cast<int>(settings.Integer("threads"));
  options.dtype = settings.Text("dtype");
  options.gguf = settings.Path("gguf");
  options.python = settings.Path("python");
  options.vllm_python = settings.Path("vllm-python");
  options.scripts = settings.Path("scripts");
  POINTSMAN_TRY(const nlohmann::json report, BenchHosts(options));

  Output output{.json = report, .text = {}, .exit_code = 0};
  output.text = fmt::format("{:<14} {:<8} {:>6} {:>15} {:>15} {:>9} {:>9}\n", "host", "phase", "batch", "frozen tok/s",
                            "memory tok/s", "overhead", "routing");
  for (const nlohmann::json& run : report["runs"]) {
    output.text += fmt::format(
        "{:<14} {:<8} {:>6} {:>15.2f} {:>15.2f} {:>8.1f}% {:>9}\n", run["host"].get<std::string>(),
        run["phase"].get<std::string>(), run["batch"].get<int64_t>(), run["frozen_tokens_per_s"].get<double>(),
        run["memory_tokens_per_s"].get<double>(), run["overhead"].get<double>() * 100,
        run["routing"].is_number() ? fmt::format("{:.1f}%", run["routing"].get<double>() * 100) : "");
  }
  if (report.contains("vllm")) {
    const nlohmann::json& vllm = report["vllm"];
    output.text +=
        fmt::format("vLLM {}: {} layers of its own weights, of the {} measured elsewhere\n",
                    vllm["version"].get<std::string>(), vllm["layers"].get<int64_t>(), report["layers"].get<int64_t>());
    for (const nlohmann::json& batch : vllm["skipped_batches"]) {
      output.text += fmt::format("vLLM: batch {} left out, its KV does not fit\n", batch.get<int64_t>());
    }
  }
  if (report["runtime_over_transformers"].is_number()) {
    output.text += fmt::format("our runtime decodes {:.2f} x as fast as transformers, one sequence, frozen\n",
                               report["runtime_over_transformers"].get<double>());
  }
  return output;
}

}  // namespace pointsman
