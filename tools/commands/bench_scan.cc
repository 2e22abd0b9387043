// pointsman bench scan: the exact search against the time that reading its bytes takes, by kernel and batch.
#include <fmt/format.h>

#include "indexer/progress.h"
#include "memory/scan_bench.h"
#include "tools/command.h"

namespace pointsman {

Result<Output> RunBenchScan(const Settings& settings) {
  Output output;
  output.json = {{"bandwidth_gb_s", MeasureReadBandwidth()}, {"runs", nlohmann::json::array()}};
  output.text = fmt::format("{:<10} {:>6} {:>12} {:>10} {:>10} {:>10}\n", "kernel", "batch", "queries/s", "GB/s",
                            "recall@16", "time/read");
  for (const ScanKernel kernel : {ScanKernel::kPortable, ScanKernel::kAvx2, ScanKernel::kAvx512}) {
    if (!ScanKernelAvailable(kernel)) continue;
    for (const int64_t batch : {int64_t{1}, settings.Integer("batch")}) {
      const ScanBenchRun run = BenchScan({.keys = static_cast<uint64_t>(settings.Integer("keys")),
                                          .dim = static_cast<uint32_t>(settings.Integer("dim")),
                                          .batch = static_cast<uint32_t>(batch),
                                          .kernel = kernel});
      output.json["runs"].push_back({{"data", "random"},
                                     {"keys", run.spec.keys},
                                     {"dim", run.spec.dim},
                                     {"engine", run.kernel},
                                     {"codes", "int8"},
                                     {"threads", 1},
                                     {"batch", run.spec.batch},
                                     {"recall_at_16", run.recall},
                                     {"build_s", run.build_s},
                                     {"queries_per_s", run.queries_per_s},
                                     {"bytes_per_key", run.bytes_per_key},
                                     {"gb_s", run.gb_s},
                                     {"bandwidth_gb_s", run.bandwidth_gb_s},
                                     {"bandwidth_ratio", run.bandwidth_ratio}});
      output.text += fmt::format("{:<10} {:>6} {:>12.0f} {:>10.2f} {:>10.4f} {:>10.2f}\n", run.kernel, run.spec.batch,
                                 run.queries_per_s, run.gb_s, run.recall, run.bandwidth_ratio);
      if (settings.Integer("batch") == 1) break;
    }
  }
  output.text += fmt::format(
      "{} keys of {} dimensions, random, one thread; time/read = time of a call over reading its bytes at the "
      "bandwidth "
      "measured beside it\n",
      FormatCount(static_cast<uint64_t>(settings.Integer("keys"))), settings.Integer("dim"));
  return output;
}

}  // namespace pointsman
