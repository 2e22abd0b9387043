#include "indexer/calibrate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "adapt/entry_values.h"
#include "adapt/tensors.h"
#include "indexer/evaluation/statistics.h"
#include "memory/key_transform.h"
#include "memory/layer_index.h"
#include "router/context_gate.h"

namespace pointsman {
namespace {

constexpr int kKMeansIterations = 8;
constexpr size_t kSettledUnrelated = 4, kSettledRelated = 8;  // tokens before m_t counts (findings F3)

// Running means m_t for t > skip.
std::vector<double> RunningMeans(const std::vector<std::vector<float>>& sequences, const OwnedGate& gate, size_t skip) {
  std::vector<double> means;
  for (const std::vector<float>& s : sequences) {
    double sum = static_cast<double>(gate.n0) * gate.prior;
    for (size_t t = 0; t < s.size(); ++t) {
      sum += s[t];
      if (t >= skip) means.push_back(sum / (gate.n0 + static_cast<double>(t + 1)));
    }
  }
  return means;
}

// G of one sequence, token by token, as the router will compute it.
std::vector<float> GateValues(std::span<const float> similarities, const OwnedGate& gate) {
  GateState state;
  const GateView view = ViewOf(gate);
  std::vector<float> values;
  for (uint32_t t = 0; t < similarities.size(); ++t) values.push_back(state.Append(view, t, similarities[t]));
  return values;
}

std::vector<std::vector<float>> Similarities(const MoeModel& model, const OwnedGate& gate,
                                             std::span<const Sequence> sequences, int threads) {
  std::vector<Sequence> numbered(sequences.begin(), sequences.end());
  NumberRows(numbered);
  const at::Tensor hidden = CaptureHidden(model, numbered, {threads, {}})[gate.layer];
  const KeyIndexView view = ViewOf(gate.keys);
  std::vector<std::vector<float>> result;
  for (const Sequence& s : numbered) {
    const size_t n = s.inputs.size();
    std::vector<Neighbour> found(n * gate.k);
    SearchExact(view, SpanOf(hidden).subspan(s.first_row * view.hidden, n * view.hidden), gate.k, found);
    std::vector<float> means(n);
    for (size_t t = 0; t < n; ++t) {
      double sum = 0;
      for (int32_t i = 0; i < gate.k; ++i) sum += found[t * gate.k + i].similarity;
      means[t] = static_cast<float>(sum / gate.k);
    }
    result.push_back(std::move(means));
  }
  return result;
}

}  // namespace

Result<OwnedGate> MakeGate(const at::Tensor& reference, const at::Tensor& unrelated, const GateOptions& options) {
  OwnedGate gate;
  gate.enabled = true;
  gate.layer = 0;
  gate.n0 = options.n0;
  const int64_t width = reference.size(1);
  const uint32_t centroids = std::min(options.centroids, static_cast<uint32_t>(reference.size(0) / 4));
  if (centroids == 0 || unrelated.size(0) == 0) {
    return Error{ErrorCode::kInvalidArgument, "context gate: " + std::to_string(reference.size(0)) +
                                                  " tokens of reference and " + std::to_string(unrelated.size(0)) +
                                                  " of unrelated text; it needs more of both"};
  }
  const uint32_t dim = std::min<uint32_t>(options.dim, static_cast<uint32_t>(width));
  gate.k = std::min<int32_t>(options.best, static_cast<int32_t>(centroids));
  // Equal numbers of rows of both kinds: the whitening must not belong to the longer text.
  const int64_t rows = std::min(reference.size(0), unrelated.size(0));
  const auto spread = [&](const at::Tensor& t) {
    return t.index_select(
        0,
        (at::arange(rows, at::kDouble) * (static_cast<double>(t.size(0)) / static_cast<double>(rows))).to(at::kLong));
  };
  const at::Tensor both = at::cat({spread(reference), spread(unrelated)}).contiguous();
  POINTSMAN_TRY(const KeyTransform transform, FitWhitening(SpanOf(both), static_cast<uint32_t>(width), dim));
  const at::Tensor center = unrelated.mean(0);
  const at::Tensor keys = ProjectKeys(reference, center, TensorOf(transform.projection, {dim, width})).contiguous();
  POINTSMAN_TRY(const std::vector<float> centers,
                SphericalKMeans(SpanOf(keys), dim, centroids, kKMeansIterations, options.seed));
  gate.keys.hidden = static_cast<uint32_t>(width);
  gate.keys.dim = dim;
  gate.keys.mean = VectorOf(center);
  gate.keys.projection = transform.projection;
  gate.keys.SetKeys(centers);
  return gate;
}

GateSamples SampleGate(const MoeModel& model, const OwnedGate& gate, std::span<const Sequence> related,
                       std::span<const Sequence> unrelated, int threads) {
  return {Similarities(model, gate, related, threads), Similarities(model, gate, unrelated, threads)};
}

void SetRamp(const GateSamples& samples, const GateQuantiles& quantiles, OwnedGate& gate) {
  double sum = 0, count = 0;
  for (const std::vector<float>& s : samples.unrelated) {
    for (float v : s) sum += v;
    count += static_cast<double>(s.size());
  }
  gate.prior = count > 0 ? static_cast<float>(sum / count) : 0;
  const auto low = RunningMeans(samples.unrelated, gate, kSettledUnrelated);
  const auto high = RunningMeans(samples.related, gate, kSettledRelated);
  gate.lo = low.empty() ? gate.prior : static_cast<float>(Quantile(low, quantiles.unrelated));
  gate.hi = high.empty() ? 1.0f : static_cast<float>(Quantile(high, quantiles.related));
  gate.hi = std::max(gate.hi, gate.lo + kMinRamp);
}

double Openness(const std::vector<std::vector<float>>& similarities, const OwnedGate& gate) {
  double sum = 0;
  size_t tokens = 0;
  for (const std::vector<float>& s : similarities) {
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

std::vector<size_t> OpenSequences(const std::vector<std::vector<float>>& similarities, const OwnedGate& gate) {
  std::vector<size_t> open;
  for (size_t i = 0; i < similarities.size(); ++i) {
    const std::vector<float> values = GateValues(similarities[i], gate);
    if (std::any_of(values.begin(), values.end(), [](float g) { return g > 0; })) open.push_back(i);
  }
  return open;
}

}  // namespace pointsman
