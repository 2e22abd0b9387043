// A load of HTTP requests on one server, for measuring: many keep-alive connections from one thread.
//
// Closed loop (rate 0): every connection sends its next request when it has the last answer. Open loop: requests have
// times at which they are due, and latency counts from then on, so that a server that stalls is charged for all that
// waited (Tene, "How NOT to Measure Latency").
//
// A request belongs to the window in which it was due, whenever its answer comes; `grace_s` after the window's end what
// is unanswered has failed. Where every connection waits, or this thread gets no core, a request that is `kMostLag_ms`
// late is never sent: `sent` falls behind `due`, and latencies hold a delay that is ours, see `lag_ms`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

inline constexpr double kMostLag_ms = 100;

struct LoadPlan {
  uint16_t port = 0;  // of 127.0.0.1
  std::string target = "/";
  std::string content_type = "application/json";
  std::string body = {};  // POSTed
  uint32_t connections = 8;
  double rate = 0;      // requests a second; 0: closed loop
  double seconds = 5;   // the window
  double warmup_s = 1;  // before, not counted
  double grace_s = 10;  // after, for answers
  bool keep_bodies = false;
};

struct LoadResult {
  uint64_t due = 0;       // in the window
  uint64_t sent = 0;      // of them: accepted + refused + failed
  uint64_t accepted = 0;  // 200
  uint64_t refused = 0;   // 429 and 503
  uint64_t failed = 0;    // any other answer, or none in time
  double window_s = 0;    // in which they were due
  double seconds = 0;     // that rates are counted over: open loop, to the last answer if that is after the window
  std::vector<double> accepted_ms, refused_ms;  // from due to the whole answer; ascending
  std::vector<double> lag_ms;                   // from due to sent; ascending
  std::vector<std::string> bodies;              // of what was accepted, if kept

  double requests_per_s() const { return seconds > 0 ? static_cast<double>(accepted) / seconds : 0; }
};

// kIo: not one answer, with what became of the requests.
Result<LoadResult> RunLoad(const LoadPlan& plan);
double Quantile(const std::vector<double>& ascending, double q);  // 0 of nothing

}  // namespace pointsman
