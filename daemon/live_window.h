// What routing with one memory meets now: means over its newest tokens, for the drift alarm, the metrics and the page.
//
// Two buckets of half a window each; the older one is dropped when the newer is full. So the means are over at least
// half a window and at most a whole one, and adding a token costs no more than its layers. Any thread.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/manifest.h"

namespace pointsman {

// What one layer of a memory did to the row that predicted a token.
struct LayerSignal {
  int32_t layer = 0;
  float weight = 0;      // G g
  float similarity = 0;  // of the nearest key
  bool changed = false;  // another set of experts than the frozen router's
};

struct LayerLive {
  int32_t layer = 0;
  double confidence_mean = 0;  // of G g, over all tokens
  double similarity_mean = 0;  // over open tokens
  double changed_share = 0;    // of open tokens
};

struct LiveSignal {
  RoutingSignal all;  // as the manifest's `calibration`
  std::vector<LayerLive> layers;
};

class LiveWindow {
 public:
  explicit LiveWindow(uint64_t tokens = 4096) : half_(tokens / 2) {}

  // A token: G, the mean over layers of G g, and the layers that were searched (none where G is 0).
  void Add(float gate, float confidence, std::span<const LayerSignal> layers);
  LiveSignal Read() const;

 private:
  struct LayerSums {
    double weight = 0, similarity = 0;
    uint64_t searched = 0, changed = 0;
  };
  struct Bucket {
    uint64_t tokens = 0, open = 0;
    double gate = 0, confidence = 0;
    std::map<int32_t, LayerSums> layers;
  };
  const uint64_t half_;
  mutable std::mutex mutex_;
  Bucket older_, newer_;
};

// Whether live text is still the kind of text that the memory was built for.
struct Drift {
  bool alarm = false;
  std::string reason;  // of the alarm, or why there can be none; empty: all is well
};
inline constexpr uint64_t kDriftTokens = 512;  // fewer live tokens raise no alarm
inline constexpr double kDriftShare = 0.5;     // live below this share of calibration's is an alarm
// `calibration`: the manifest's. The gate opens less often than half of what it did there, or where it is open the
// nearest keys count for less than half of what they did.
Drift DriftOf(const RoutingSignal& live, const std::optional<RoutingSignal>& calibration);

}  // namespace pointsman
