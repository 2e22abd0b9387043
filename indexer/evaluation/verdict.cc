#include "indexer/evaluation/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace pointsman {
namespace {

std::string Nats(double mean, const Interval& ci95) {
  return fmt::format("{:+.4f} nats per token (95% interval {:+.4f} to {:+.4f})", mean, ci95.low, ci95.high);
}

const VariantScore* MemoryOf(std::span<const VariantScore> variants) {
  const auto found = std::find_if(variants.begin(), variants.end(),
                                  [](const VariantScore& v) { return KindOf(v.name) == VariantKind::kMemory; });
  return found == variants.end() ? nullptr : &*found;
}

bool Less(const std::optional<double>& a, const std::optional<double>& b) { return a && b && *a < *b; }

// What it would take to tell, from the interval's width: "; about 120 independent test documents would tell, 80 more".
// `room` is how far the mean stands from the threshold, on the good side; where it stands on it, nothing is promised.
std::string WouldTell(const Estimate& estimate, double room, const char* what) {
  constexpr uint64_t kTooMany = 100;  // times as many documents: nobody collects those
  const uint64_t needed = ClustersFor(estimate, room);
  if (needed == 0 || needed > kTooMany * estimate.clusters) {
    return fmt::format("; it is too near the threshold for any reasonable number of {} to tell", what);
  }
  const uint64_t more = std::max<uint64_t>(1, needed - std::min(needed, estimate.clusters));
  return fmt::format("; about {} independent {} would tell, {} more", estimate.clusters + more, what, more);
}

// Its paired interval is wholly on its side, and its damage within what the memory is allowed.
bool BetterAndHarmless(const VariantScore& v, const VariantScore& memory, const VerdictOptions& options) {
  const double allowed = std::max(options.damage_bound, memory.damage_ci95 ? memory.damage_ci95->high : 0.0);
  return v.vs_memory && v.vs_memory->high < 0 && v.damage_ci95 && v.damage_ci95->high <= allowed;
}

}  // namespace

Verdict Decide(const Estimate& gain, const std::optional<Estimate>& damage, const VerdictOptions& options) {
  const auto few = [&](const char* what, uint64_t clusters) {
    return Verdict{Decision::kInconclusive,
                   fmt::format("only {} independent {} were scored; a verdict needs {}: give {} more", clusters, what,
                               options.min_clusters, options.min_clusters - clusters)};
  };
  if (options.equal_experts) {
    return {
        Decision::kReject,
        fmt::format("the experts of every layer are equal, so it cannot matter which of them a token takes; the change "
                    "on your text, {}, is the scale of their output, not routing",
                    Nats(gain.mean, gain.ci95))};
  }
  if (gain.clusters < options.min_clusters) return few("test documents", gain.clusters);

  if (gain.ci95.low > -options.min_gain) {
    return {Decision::kReject, fmt::format("it changes the loss on your text by {}: less than the gain asked for, {}",
                                           Nats(gain.mean, gain.ci95), options.min_gain)};
  }
  if (damage && damage->clusters < options.min_clusters) return few("unrelated documents", damage->clusters);
  if (damage && damage->ci95.low > options.damage_bound) {
    return {Decision::kReject, fmt::format("it changes the loss on unrelated text by {}: more than the bound of {}",
                                           Nats(damage->mean, damage->ci95), options.damage_bound)};
  }
  if (gain.ci95.high >= -options.min_gain) {
    return {Decision::kInconclusive,
            fmt::format("the change on your text, {}, may be less than the gain asked for, {}{}",
                        Nats(gain.mean, gain.ci95), options.min_gain,
                        WouldTell(gain, std::abs(-options.min_gain - gain.mean), "test documents"))};
  }
  if (!damage) {
    return {Decision::kInconclusive,
            "it was not scored on unrelated text, so that damage elsewhere is unknown; give some with --off-domain"};
  }
  if (damage->ci95.high >= options.damage_bound) {
    const bool unresolved = damage->HalfWidth() >= options.damage_bound;
    return {Decision::kInconclusive,
            fmt::format("the change on unrelated text, {}, may be more than the bound of {}{}{}",
                        Nats(damage->mean, damage->ci95), options.damage_bound,
                        unresolved ? ": this much unrelated text cannot resolve such a bound" : "",
                        WouldTell(*damage, std::abs(options.damage_bound - damage->mean), "unrelated documents"))};
  }
  return {
      Decision::kAdopt,
      fmt::format(
          "this memory makes the model better on your text by {:.4f} nats per token (95% interval {:.4f} to {:.4f}) "
          "and does no measurable damage elsewhere ({:+.4f}, at most {:+.4f})",
          -gain.mean, -gain.ci95.high, -gain.ci95.low, damage->mean, damage->ci95.high)};
}

double UntouchedBound(uint64_t clusters) {
  return clusters == 0 ? 1 : 1 - std::pow(0.05, 1 / static_cast<double>(clusters));
}

std::string DominatedBy(std::span<const VariantScore> variants, const VerdictOptions& options) {
  const VariantScore* memory = MemoryOf(variants);
  if (memory == nullptr) return "";
  const VariantScore* best = nullptr;
  for (const VariantScore& v : variants) {
    const bool cheaper = Less(v.bytes_per_token, memory->bytes_per_token) ||
                         (!Less(memory->bytes_per_token, v.bytes_per_token) && Less(v.build_s, memory->build_s));
    if (KindOf(v.name) != VariantKind::kRival || !cheaper || !BetterAndHarmless(v, *memory, options)) continue;
    if (best == nullptr || v.nll < best->nll) best = &v;
  }
  return best == nullptr ? "" : best->name;
}

std::string DearerKind(std::span<const VariantScore> variants, const VerdictOptions& options) {
  const VariantScore* memory = MemoryOf(variants);
  if (memory == nullptr) return "";
  for (const VariantScore& v : variants) {
    if (v.name != "entries" && v.name != "prototypes") continue;
    if (!Less(memory->bytes_per_token, v.bytes_per_token) || !BetterAndHarmless(v, *memory, options)) continue;
    return fmt::format(
        "{} would be better than this memory by {:.4f} to {:.4f} nats per token, at {:.3g} times the bytes: "
        "pointsman build --kind {}",
        v.name, -v.vs_memory->high, -v.vs_memory->low, *v.bytes_per_token / *memory->bytes_per_token, v.name);
  }
  return "";
}

std::vector<std::string> CheckControls(std::span<const ControlInterval> controls) {
  std::vector<std::string> broken;
  for (const ControlInterval& control : controls) {
    if (control.versus_bias && control.versus_bias->high < 0) {
      broken.push_back(
          fmt::format("control {} beats bias by {:.4f} to {:.4f} nats per token: the gain does not come from "
                      "which neighbours are found",
                      control.name, -control.versus_bias->high, -control.versus_bias->low));
    }
    if (control.versus_memory && control.versus_memory->low <= 0) {
      broken.push_back(
          fmt::format("memory does not beat control {} (control minus memory {:+.4f} to {:+.4f} nats per token)",
                      control.name, control.versus_memory->low, control.versus_memory->high));
    }
  }
  return broken;
}

}  // namespace pointsman
