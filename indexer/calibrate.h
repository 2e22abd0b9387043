// Calibrates the context gate (findings F3) after training: how much a text so far resembles the memory, from a fixed
// set of centroids at the first MoE layer, as a ramp between unrelated text and held-out reference documents.
//
// The gate's similarity does not depend on the memory's values: the first MoE layer's router input comes before any
// changed routing. So the centroids are made once, and tightening moves only lo and hi.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "adapt/capture.h"
#include "adapt/sequences.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"
#include "models/model.h"

namespace pointsman {

struct GateOptions {
  uint32_t dim = 64;
  uint32_t centroids = 1024;  // findings F3: 1,024 with the best 8
  int32_t best = 8;
  float n0 = 4;
  uint64_t seed = 0;
};

// s_t of every token of every sequence, with the text it comes from.
struct GateSamples {
  std::vector<std::vector<float>> related;    // held-out reference documents, one vector a sequence
  std::vector<std::vector<float>> unrelated;  // general text
};

// A ramp, as quantiles of the running mean m_t on unrelated text (lo) and on held-out reference text (hi).
struct GateQuantiles {
  double unrelated = 0.99;
  double related = 0.25;
};

// A gate with centroids, prior and n0; lo and hi are still to be set (SetRamp). reference and unrelated are layer 0's
// router inputs, [N, H] each.
//
// Its keys are not the memory's: they are centered on unrelated text and whitened over both kinds of text. Unrelated
// text then points anywhere, and reference text away from it, so that the cosine to the reference centroids tells the
// two apart (docs/decisions/001-gate-keys.md). Text of a third kind points anywhere too: the gate stays shut for it.
Result<OwnedGate> MakeGate(const at::Tensor& reference, const at::Tensor& unrelated, const GateOptions& options);
GateSamples SampleGate(const MoeModel& model, const OwnedGate& gate, std::span<const Sequence> related,
                       std::span<const Sequence> unrelated, int threads);
// Sets prior, lo and hi from the samples. The ramp is at least kMinRamp wide.
void SetRamp(const GateSamples& samples, const GateQuantiles& quantiles, OwnedGate& gate);
inline constexpr float kMinRamp = 0.002f;

// Mean G over all tokens of some samples.
double Openness(const std::vector<std::vector<float>>& similarities, const OwnedGate& gate);

// Sets the ramp that opens most on related text among those of a grid of quantiles that `harmless` accepts, and returns
// its quantiles; the tightest ramp and nothing where it accepts none. A ramp that is at least as shut for every text as
// an accepted one counts as accepted, so that `harmless`, which is dear, is asked about 15 times for 40 ramps.
using HarmlessRamp = std::function<Result<bool>(const OwnedGate& gate, const GateQuantiles& quantiles)>;
Result<std::optional<GateQuantiles>> SetMostOpenRamp(const GateSamples& samples, const HarmlessRamp& harmless,
                                                     OwnedGate& gate);

// The sequences (of samples.related or samples.unrelated) for which the gate opens at any token.
std::vector<size_t> OpenSequences(const std::vector<std::vector<float>>& similarities, const OwnedGate& gate);

}  // namespace pointsman
