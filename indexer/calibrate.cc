#include "indexer/calibrate.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <set>
#include <utility>

#include "indexer/evaluation/statistics.h"
#include "router/context_gate.h"

namespace pointsman {
namespace {

constexpr size_t kSettledUnrelated = 4, kSettledRelated = 8;  // tokens before m_t counts (findings F3)

// Calls `use(t, sum, count)` for every token with the evidence in its window, as the router adds it up.
template <typename Use>
void ForEachWindow(std::span<const float> evidence, const OwnedGate& gate, const Use& use) {
  std::vector<double> sums{0};
  for (size_t t = 0; t < evidence.size(); ++t) {
    sums.push_back(sums.back() + evidence[t]);
    const size_t count = std::min<size_t>(t + 1, gate.window);
    use(t, sums.back() - sums[t + 1 - count], count);
  }
}

// m_t for t >= skip.
std::vector<double> WindowMeans(const std::vector<std::vector<float>>& sequences, const OwnedGate& gate, size_t skip) {
  const GateView view = ViewOf(gate);
  std::vector<double> means;
  for (const std::vector<float>& evidence : sequences) {
    ForEachWindow(evidence, gate, [&](size_t t, double sum, size_t count) {
      if (t >= skip) means.push_back(GateMean(view, sum, count));
    });
  }
  return means;
}

// G of one sequence, token by token.
std::vector<float> GateValues(std::span<const float> evidence, const OwnedGate& gate) {
  const GateView view = ViewOf(gate);
  std::vector<float> values;
  ForEachWindow(evidence, gate,
                [&](size_t, double sum, size_t count) { values.push_back(GateValue(view, sum, count)); });
  return values;
}

std::vector<std::vector<float>> Evidence(const OwnedGate& gate, std::span<const Sequence> sequences) {
  const GateView view = ViewOf(gate);
  std::vector<std::vector<float>> result;
  for (const Sequence& s : sequences) {
    std::vector<float> evidence;
    int32_t previous = kNoToken;
    for (int32_t token : s.inputs) {
      evidence.push_back(static_cast<float>(GateEvidence(view, previous, token)));
      previous = token;
    }
    result.push_back(std::move(evidence));
  }
  return result;
}

std::set<uint64_t> TokenPairs(std::span<const Sequence> sequences) {
  std::set<uint64_t> pairs;
  for (const Sequence& s : sequences) {
    for (size_t t = 0; t < s.inputs.size(); ++t) {
      pairs.insert(uint64_t{static_cast<uint32_t>(s.inputs[t])} << 32 | static_cast<uint32_t>(s.targets[t]));
    }
  }
  return pairs;
}

}  // namespace

Result<OwnedGate> MakeGate(std::span<const Sequence> reference, std::span<const Sequence> unrelated,
                           const GateOptions& options) {
  const std::set<uint64_t> known = TokenPairs(reference), common = TokenPairs(unrelated);
  if (known.empty()) {
    return Error{ErrorCode::kInvalidArgument, "context gate: the reference text is empty; give more --corpus text"};
  }
  OwnedGate gate;
  gate.enabled = true;
  gate.n0 = options.n0;
  gate.common = options.common;
  gate.window = options.window;
  gate.pairs.assign(known.begin(), known.end());
  for (uint64_t pair : gate.pairs) gate.is_common.push_back(common.contains(pair));
  return gate;
}

GateSamples SampleGate(const OwnedGate& gate, std::span<const Sequence> related, std::span<const Sequence> unrelated) {
  return {Evidence(gate, related), Evidence(gate, unrelated)};
}

void SetRamp(const GateSamples& samples, const GateQuantiles& quantiles, OwnedGate& gate) {
  double sum = 0, count = 0;
  for (const std::vector<float>& s : samples.unrelated) {
    for (float v : s) sum += v;
    count += static_cast<double>(s.size());
  }
  gate.prior = count > 0 ? static_cast<float>(sum / count) : 0;
  const auto low = WindowMeans(samples.unrelated, gate, kSettledUnrelated);
  const auto high = WindowMeans(samples.related, gate, kSettledRelated);
  gate.lo = low.empty() ? gate.prior : static_cast<float>(Quantile(low, quantiles.unrelated));
  gate.hi = high.empty() ? 1.0f : static_cast<float>(Quantile(high, quantiles.related));
  gate.hi = std::max(gate.hi, gate.lo + kMinRamp);
}

double Openness(const std::vector<std::vector<float>>& evidence, const OwnedGate& gate) {
  double sum = 0;
  size_t tokens = 0;
  for (const std::vector<float>& s : evidence) {
    for (float value : GateValues(s, gate)) sum += value;
    tokens += s.size();
  }
  return tokens == 0 ? 0 : sum / static_cast<double>(tokens);
}

Result<std::optional<GateQuantiles>> SetMostOpenRamp(const GateSamples& samples, const HarmlessRamp& harmless,
                                                     OwnedGate& gate) {
  // From .98: other unrelated text opens the gate more often, and 95 % of its tokens are to stay untouched.
  constexpr std::array kUnrelated{0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0};
  constexpr std::array kRelated{0.0, 0.25, 0.50, 0.75, 0.90};  // 0: the steepest ramp
  std::optional<GateQuantiles> best;
  double most = -1;
  // The loosest `lo` that was accepted so far; a softer ramp is accepted there too.
  size_t accepted = kUnrelated.size();
  for (double related : kRelated) {
    for (size_t first = 0; first < accepted;) {
      const size_t middle = (first + accepted) / 2;
      const GateQuantiles quantiles{kUnrelated[middle], related};
      SetRamp(samples, quantiles, gate);
      POINTSMAN_TRY(const bool good, harmless(gate, quantiles));
      (good ? accepted : first) = good ? middle : middle + 1;
    }
    if (accepted == kUnrelated.size()) continue;
    const GateQuantiles quantiles{kUnrelated[accepted], related};
    SetRamp(samples, quantiles, gate);
    if (const double open = Openness(samples.related, gate); open > most) {
      most = open;
      best = quantiles;
    }
  }
  SetRamp(samples, best.value_or(GateQuantiles{kUnrelated.back(), kRelated.back()}), gate);
  return best;
}

std::vector<size_t> OpenSequences(const std::vector<std::vector<float>>& evidence, const OwnedGate& gate) {
  std::vector<size_t> open;
  for (size_t i = 0; i < evidence.size(); ++i) {
    const std::vector<float> values = GateValues(evidence[i], gate);
    if (std::any_of(values.begin(), values.end(), [](float g) { return g > 0; })) open.push_back(i);
  }
  return open;
}

}  // namespace pointsman
