// pointsman bench daemon: the server under load, and against a FastAPI service.
#include <fmt/format.h>

#include "tools/bench/daemon_bench.h"
#include "tools/command.h"

namespace pointsman {
namespace {

using nlohmann::json;

double Number(const json& object, const char* name) { return object.at(name).get<double>(); }

std::string RouteText(const json& report) {
  std::string text =
      fmt::format("POST /v1/route, {} rows x 1 layer, {} entries\n{:<15} {:>12} {:>10} {:>10}\n",
                  report["rows"].get<int>(), report["entries"].get<uint64_t>(), "", "requests/s", "p50 ms", "p99 ms");
  for (const char* side : {"ours", "baseline", "numpy_baseline"}) {
    text += fmt::format("{:<15} {:>12.0f} {:>10.2f} {:>10.2f}\n", side, Number(report[side], "requests_per_s"),
                        Number(report[side], "p50_ms"), Number(report[side], "p99_ms"));
  }
  return text + fmt::format("{:.2f} x the requests/s, {:.2f} x the p99; answers differ by {:.4f} at most\n",
                            Number(report, "ratio"), Number(report, "p99_ratio"), Number(report, "largest_difference"));
}

std::string OverloadText(const json& o) {
  return fmt::format(
      "overload: holds {:.0f}/s; of {:.0f}/s offered {:.0f}/s were sent (p99 {:.2f} ms late), {:.0f}/s answered "
      "(p99 {:.2f} ms, unloaded {:.2f} ms), {:.0f}/s refused (p50 {:.2f} ms, p99 {:.2f} ms), {} failed; "
      "memory {:.1f} -> {:.1f} MB\n",
      Number(o, "holds_per_s"), Number(o, "offered_per_s"), Number(o, "sent_per_s"), Number(o, "lag_p99_ms"),
      Number(o, "accepted_per_s"), Number(o, "accepted_p99_ms"), Number(o, "unloaded_p99_ms"),
      Number(o, "refused_per_s"), Number(o, "refused_p50_ms"), Number(o, "refused_p99_ms"), o["failed"].get<uint64_t>(),
      Number(o, "resident_bytes_before") / 1e6, Number(o, "resident_bytes_after") / 1e6);
}

std::string GenerateText(const json& g) {
  return fmt::format(
      "generate: {:.1f} tokens/s here, {:.1f} over HTTP ({:+.1f} % time), {:.1f} with {} clients ({:.2f} x one)\n",
      Number(g, "generate_tokens_per_s"), Number(g, "http_tokens_per_s"), 100 * Number(g, "overhead"),
      Number(g, "clients_tokens_per_s"), g["clients"].get<int>(), Number(g, "clients_ratio"));
}

}  // namespace

Result<Output> RunBenchDaemon(const Settings& settings) {
  DaemonBenchOptions options;
  options.parts = settings.Texts("parts");
  options.entries = static_cast<uint64_t>(settings.Integer("entries"));
  options.rows = static_cast<uint32_t>(settings.Integer("rows"));
  options.connections = static_cast<uint32_t>(settings.Integer("connections"));
  options.slow_connections = static_cast<uint32_t>(settings.Integer("slow-connections"));
  options.route_wait_ms = settings.Real("route-wait");
  options.seconds = settings.Real("seconds");
  options.rounds = static_cast<int>(settings.Integer("rounds"));
  options.threads = static_cast<int>(settings.Integer("threads"));
  options.tokens = static_cast<uint32_t>(settings.Integer("max-tokens"));
  options.model = settings.Path("model");
  options.memory = settings.Path("memory");
  options.python = settings.Path("python");
  options.scripts = settings.Path("scripts");
  POINTSMAN_TRY(const json report, BenchDaemon(options));
  Output output{.json = report, .text = {}, .exit_code = 0};
  if (report.contains("ours")) output.text += RouteText(report);
  if (report.contains("overload")) output.text += OverloadText(report["overload"]);
  if (report.contains("loris")) {
    const json& loris = report["loris"];
    output.text +=
        fmt::format("loris: a healthy client's p99 is {:.2f} ms alone, {:.2f} ms beside {} slow ones ({:.2f} x)\n",
                    Number(loris, "alone_p99_ms"), Number(loris, "beside_p99_ms"), loris["connections"].get<int>(),
                    Number(loris, "ratio"));
  }
  if (report.contains("generate")) output.text += GenerateText(report["generate"]);
  return output;
}

}  // namespace pointsman
