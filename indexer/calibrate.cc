#include "indexer/calibrate.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <utility>

#include "indexer/evaluation/statistics.h"
#include "indexer/gate_shares.h"
#include "router/context_gate.h"

namespace pointsman {
namespace {

constexpr size_t kSettledUnrelated = 4, kSettledRelated = 8;  // tokens before m_t counts (findings F3)

// Calls `use(t, sums, count)` for every token with each group's evidence in its window, as the router adds it up.
template <typename Use>
void ForEachWindow(const SequenceEvidence& evidence, const GateView& gate, const Use& use) {
  const size_t groups = gate.groups.size();
  const size_t tokens = evidence.values.size() / groups;
  std::vector<double> sums(groups, 0.0), in_window(groups);
  for (size_t t = 0; t < tokens; ++t) {
    const size_t count = std::min<size_t>(t + 1, gate.window);
    for (size_t group = 0; group < groups; ++group) {
      sums.push_back(sums[t * groups + group] + evidence.values[t * groups + group]);
      in_window[group] = sums.back() - sums[(t + 1 - count) * groups + group];
    }
    use(t, std::span<const double>(in_window), count);
  }
}

// m_t of settled tokens for each group, ascending: of the unrelated text, and of the group's own.
std::vector<GroupMeans> MeansByGroup(const GateSamples& samples, const GateView& gate) {
  std::vector<GroupMeans> means(gate.groups.size());
  for (const SequenceEvidence& evidence : samples.unrelated) {
    ForEachWindow(evidence, gate, [&](size_t t, std::span<const double> sums, size_t count) {
      if (t < kSettledUnrelated) return;
      for (size_t j = 0; j < means.size(); ++j) means[j].unrelated.push_back(GateMean(gate, j, sums[j], count));
    });
  }
  for (const SequenceEvidence& evidence : samples.related) {
    const uint32_t j = evidence.group;
    ForEachWindow(evidence, gate, [&](size_t t, std::span<const double> sums, size_t count) {
      if (t >= kSettledRelated) means[j].own.push_back(GateMean(gate, j, sums[j], count));
    });
  }
  for (GroupMeans& of : means) {
    std::ranges::sort(of.unrelated);
    std::ranges::sort(of.own);
  }
  return means;
}

// G of one sequence, token by token.
std::vector<float> GateValues(const SequenceEvidence& evidence, const GateView& gate) {
  std::vector<float> values;
  ForEachWindow(evidence, gate, [&](size_t, std::span<const double> sums, size_t count) {
    values.push_back(GateValue(gate, sums, count));
  });
  return values;
}

std::vector<SequenceEvidence> Evidence(const GateView& gate, std::span<const Sequence> sequences) {
  const size_t groups = gate.groups.size();
  std::vector<double> of_token(groups);
  std::vector<SequenceEvidence> result;
  for (const Sequence& s : sequences) {
    SequenceEvidence evidence;
    int32_t previous = kNoToken;
    for (int32_t token : s.inputs) {
      GateEvidence(gate, previous, token, of_token);
      for (double value : of_token) evidence.values.push_back(static_cast<float>(value));
      previous = token;
    }
    result.push_back(std::move(evidence));
  }
  return result;
}

// By pair: bit j, it stands in a sequence of group j.
std::map<uint64_t, uint16_t> TokenPairs(std::span<const Sequence> sequences, const DocumentGroups& groups) {
  std::map<uint64_t, uint16_t> pairs;
  for (const Sequence& s : sequences) {
    const auto mark = static_cast<uint16_t>(1u << groups.Of(s));
    for (size_t t = 0; t < s.inputs.size(); ++t) {
      pairs[uint64_t{static_cast<uint32_t>(s.inputs[t])} << 32 | static_cast<uint32_t>(s.targets[t])] |= mark;
    }
  }
  return pairs;
}

double MeanEvidence(std::span<const SequenceEvidence> sequences, size_t group, size_t groups) {
  double sum = 0, count = 0;
  for (const SequenceEvidence& s : sequences) {
    for (size_t i = group; i < s.values.size(); i += groups) sum += s.values[i];
    count += static_cast<double>(s.values.size() / groups);
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace

Result<OwnedGate> MakeGate(std::span<const Sequence> reference, std::span<const Sequence> unrelated,
                           const DocumentGroups& groups, const GateOptions& options) {
  const auto known = TokenPairs(reference, groups), common = TokenPairs(unrelated, {});
  if (known.empty()) {
    return Error{ErrorCode::kInvalidArgument, "context gate: the reference text is empty; give more --corpus text"};
  }
  OwnedGate gate;
  gate.enabled = true;
  gate.n0 = options.n0;
  gate.common = options.common;
  gate.window = options.window;
  gate.groups.clear();
  for (const std::string& name : groups.names) gate.groups.push_back({.name = name});
  for (const auto& [pair, mark] : known) {
    gate.pairs.push_back(pair);
    gate.is_common.push_back(common.contains(pair));
    if (groups.names.size() > 1) gate.pair_groups.push_back(mark);
  }
  return gate;
}

GateSamples SampleGate(const OwnedGate& gate, std::span<const Sequence> related, std::span<const Sequence> unrelated,
                       const DocumentGroups& groups) {
  const GateView view = ViewOf(gate);
  GateSamples samples{Evidence(view, related), Evidence(view, unrelated)};
  for (size_t i = 0; i < related.size(); ++i) samples.related[i].group = groups.Of(related[i]);
  return samples;
}

void SetRamp(const GateSamples& samples, const GateQuantiles& quantiles, OwnedGate& gate) {
  const size_t groups = gate.groups.size();
  for (size_t j = 0; j < groups; ++j) {
    gate.groups[j].prior = static_cast<float>(MeanEvidence(samples.unrelated, j, groups));
  }
  const std::vector<GroupMeans> means = MeansByGroup(samples, ViewOf(gate));
  std::vector<double> at{quantiles.unrelated};
  if (groups > 1) {
    at = DivideShare(1 - quantiles.unrelated, means);
    for (double& share : at) share = 1 - share;
  }
  for (size_t j = 0; j < groups; ++j) {
    const auto& [low, high] = means[j];
    GateGroup& group = gate.groups[j];
    group.lo = low.empty() ? group.prior : static_cast<float>(SortedQuantile(low, at[j]));
    group.hi = high.empty() ? 1.0f : static_cast<float>(SortedQuantile(high, quantiles.related));
    group.hi = std::max(group.hi, group.lo + kMinRamp);
  }
}

double Openness(std::span<const SequenceEvidence> evidence, const OwnedGate& gate) {
  const GateView view = ViewOf(gate);
  struct Total {
    double sum = 0;
    size_t tokens = 0;
  };
  std::map<uint32_t, Total> by_group;
  for (const SequenceEvidence& s : evidence) {
    Total& total = by_group[s.group];
    for (float value : GateValues(s, view)) {
      total.sum += value;
      ++total.tokens;
    }
  }
  std::erase_if(by_group, [](const auto& entry) { return entry.second.tokens == 0; });
  double sum = 0;
  for (const auto& [group, total] : by_group) sum += total.sum / static_cast<double>(total.tokens);
  return by_group.empty() ? 0 : sum / static_cast<double>(by_group.size());
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

std::vector<size_t> OpenSequences(std::span<const SequenceEvidence> evidence, const OwnedGate& gate) {
  const GateView view = ViewOf(gate);
  std::vector<size_t> open;
  for (size_t i = 0; i < evidence.size(); ++i) {
    const std::vector<float> values = GateValues(evidence[i], view);
    if (std::any_of(values.begin(), values.end(), [](float g) { return g > 0; })) open.push_back(i);
  }
  return open;
}

}  // namespace pointsman
