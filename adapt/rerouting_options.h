// Settings of online rerouting (adapt/rerouting.h), without LibTorch.
#pragma once

#include <cstdint>

namespace pointsman {

// Confidence of a layer = mean over tokens and selected experts of log p: the least confident layer routes to experts
// of low probability. (The paper's formula has the other sign of its text.)
enum class ReroutedLayers : uint8_t { kAll, kLast, kMostConfident, kLeastConfident };

struct ReroutingOptions {
  int steps = 5;       // n
  double rate = 0.05;  // Adam's
  ReroutedLayers layers = ReroutedLayers::kAll;
  int layer_count = 0;  // of the three others; 0 = half of the layers
  bool soft = false;    // all layers, each with a step scaled by its (least or most) confidence, the chosen end at 1
  // Guard: learn from the first 3/4 of the context; if that lowers the loss on the last quarter by more than the margin
  // (nats per token), learn from all of it, else keep the start.
  bool guard = false;
  double guard_margin = 0;
  bool stop_when_worse = false;  // a context stops, one step back, when its loss rises
};

}  // namespace pointsman
