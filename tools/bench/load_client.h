// A load of HTTP requests on one server, for measuring: many keep-alive connections from one thread.
//
// Closed loop (rate 0): every connection sends its next request when it has the last answer. Open loop: requests have
// times at which they are due, and latency counts from then on, so that a server that stalls is charged for all that
// waited (Tene, "How NOT to Measure Latency").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct LoadPlan {
  uint16_t port = 0;  // of 127.0.0.1
  std::string target = "/";
  std::string content_type = "application/json";
  std::string body;  // POSTed
  uint32_t connections = 8;
  double rate = 0;      // requests a second; 0: closed loop
  double seconds = 5;   // counted
  double warmup_s = 1;  // before, not counted
  bool keep_bodies = false;
};

struct LoadResult {
  uint64_t accepted = 0;  // 200
  uint64_t refused = 0;   // 429 and 503
  uint64_t failed = 0;    // any other answer, or none
  double seconds = 0;
  std::vector<double> accepted_ms, refused_ms;  // ascending
  std::vector<std::string> bodies;              // of what was accepted, if kept

  double requests_per_s() const { return seconds > 0 ? static_cast<double>(accepted) / seconds : 0; }
};

// kIo: nobody listens on the port.
Result<LoadResult> RunLoad(const LoadPlan& plan);
double Quantile(const std::vector<double>& ascending, double q);  // 0 of nothing

}  // namespace pointsman
