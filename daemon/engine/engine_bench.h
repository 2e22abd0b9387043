// Measures the engine: tokens per second by the number of clients at once, and what a single request costs more than
// Generate. Every side has its turn in each round, so that a busy machine slows all of them; figures are medians.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/model.h"

namespace pointsman {

struct EngineBenchSpec {
  std::vector<uint32_t> clients = {1, 2, 4, 8, 16};
  // Client i continues prompt i modulo their number, greedily, past end tokens. REQUIRES: not empty.
  std::vector<std::vector<int32_t>> prompts;
  int64_t new_tokens = 64;
  int rounds = 9;  // after one that warms up
  int threads = 1;
  std::shared_ptr<const RoutingTables> tables = {};  // null: the frozen model
};

struct EngineBenchRun {
  uint32_t clients = 0;
  double seconds = 0;       // from the first Submit to the last on_done
  double tokens_per_s = 0;  // new ones, of all clients together
};

struct EngineBenchReport {
  std::vector<EngineBenchRun> runs;  // as spec.clients
  double generate_s = 0;             // the first prompt through Generate
  double overhead = 0;               // median over rounds of engine / Generate - 1, for the first prompt
};

// Errors: the engine's and Generate's.
Result<EngineBenchReport> BenchEngine(std::shared_ptr<const MoeModel> model, const EngineBenchSpec& spec);

}  // namespace pointsman
