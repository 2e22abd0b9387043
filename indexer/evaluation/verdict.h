// The verdict: whether a memory may be switched on, by the rule of design.md 8.
//
//   adopt         gain's upper 95 % bound < -min_gain, and damage's upper bound < damage_bound
//   reject        gain's interval wholly above -min_gain, or damage's wholly above damage_bound, or a model whose
//                 experts are all equal
//   inconclusive  else; also with fewer than min_clusters test documents or unrelated documents (near-duplicates count
//   once). The reason then says how many documents are missing, or would tell, by the width of the interval there is.
//
// The damage rule is an equivalence test, the half that matters (TOST, Schuirmann 1987, one-sided: better elsewhere is
// no damage): the upper end of the 95 % interval is a one-sided bound of 97.5 %. Where the interval is so wide that
// even a damage of 0 would not pass, the data cannot resolve the bound, and the reason says that.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "indexer/evaluation/report.h"
#include "indexer/evaluation/statistics.h"

namespace pointsman {

struct VerdictOptions {
  double min_gain = 0.01;       // nats per token
  double damage_bound = 0.002;  // nats per token
  uint64_t min_clusters = 20;   // a bootstrap over fewer is not to be trusted
  // All experts of every layer hold the same weights: no choice among them can be better than another. What such a
  // memory gains is the scale of a layer's output (where top-k weights are not renormalized), and is never adopted.
  bool equal_experts = false;
};

struct Verdict {
  Decision decision = Decision::kInconclusive;
  std::string reason;  // one sentence, with the numbers
};

// Of how many such documents a share may still be touched, though none of `clusters` was: the one-sided 95 % bound
// 1 - .05^(1/n), the "rule of three".
double UntouchedBound(uint64_t clusters);

// `gain`: memory minus frozen on the test split. `damage`: the same on unrelated text; nullopt when there was none,
// which is never adopted.
Verdict Decide(const Estimate& gain, const std::optional<Estimate>& damage, const VerdictOptions& options);

// The best variant that costs less than `memory` (fewer bytes per token, or no more and a shorter build), whose
// paired interval against `memory` is wholly below 0, and whose damage does not exceed what the memory is allowed;
// empty if there is none. Not candidates: references (frozen, full_finetune, oracle) and controls. Variants without
// damage figures are no candidates: a cheaper rival that breaks other text does not dominate.
std::string DominatedBy(std::span<const VariantScore> variants, const VerdictOptions& options);

// A sentence about the memory's other kind where that is better, as harmless, and takes more bytes; empty otherwise.
std::string DearerKind(std::span<const VariantScore> variants, const VerdictOptions& options);

// One sentence per control (random_neighbours, shuffled_values) that breaks its promise: `memory` must beat it, and it
// must not beat `bias`. Empty = all hold. An absent interval (that variant was not scored) is not checked.
struct ControlInterval {
  std::string name;
  std::optional<Interval> versus_bias;    // control minus bias
  std::optional<Interval> versus_memory;  // control minus memory
};
std::vector<std::string> CheckControls(std::span<const ControlInterval> controls);

}  // namespace pointsman
