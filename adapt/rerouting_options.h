// Settings of online rerouting (adapt/rerouting.h), without LibTorch.
#pragma once

#include <cstdint>
#include <string_view>

namespace pointsman {

// Confidence of a layer = mean over tokens and selected experts of log p: the least confident layer routes to experts
// of low probability. (The paper's formula has the other sign of its text.)
enum class ReroutedLayers : uint8_t { kAll, kLast, kMostConfident, kLeastConfident };

// How the context's gradient becomes a step.
enum class ReroutingRule : uint8_t {
  kAdam,       // the paper leaves its optimizer open; Adam moves every expert by about the rate, evidence or not
  kEvidence,   // by rate * t, t = sum of the tokens' gradients / root of the sum of their squares: an expert on which
               // the tokens disagree hardly moves
  kAgreement,  // evidence's step, less of it where the context's halves would do different things, as the cosine
               // between them falls from kFullAgreement to 0: what held from the first half to the second is likely to
               // hold on
};
inline constexpr double kFullAgreement = 0.12;  // docs/decisions/007-rerouting-defaults.md

// The defaults are docs/decisions/007's; the paper's are 5 steps of 0.05 (its optimizer is not known).
struct ReroutingOptions {
  ReroutingRule rule = ReroutingRule::kAgreement;
  int steps = 1;       // n
  double rate = 0.03;  // lr
  ReroutedLayers layers = ReroutedLayers::kAll;
  int layer_count = 0;  // of the three others; 0 = half of the layers
  bool soft = false;    // all layers, each with a step scaled by its (least or most) confidence, the chosen end at 1
  // Guard: learn from the first 3/4 of the context; if that lowers the loss on the last quarter by more than the margin
  // (nats per token), learn from all of it, else keep the start.
  bool guard = false;
  double guard_margin = 0;
  // A context stops once a step lowers its loss by less than this (nats per token); one that raised it is taken back.
  bool stop_early = false;
  double stop_below = 0;
};

inline constexpr std::string_view kReroutedLayersHelp =
    "all, soft-most, soft-least, or last, most-confident, least-confident with a count such as last:3";
// `text` as above into layers, layer_count and soft; false if it is none of them.
bool ParseReroutedLayers(std::string_view text, ReroutingOptions* options);
// "adam", "evidence" or "agreement".
bool ParseReroutingRule(std::string_view text, ReroutingOptions* options);

}  // namespace pointsman
