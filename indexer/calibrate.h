// Calibrates the context gate after training: how much a text so far reads like the reference text, as a ramp between
// unrelated text and held-out reference documents.
//
// The gate's evidence is token pairs (memory/routing_tables.h): no model is asked, and nothing that the memory changes
// can move it. So the pairs are counted once, and tightening moves only lo and hi.
// Where the memory has groups of documents, each has a ramp of its own. Any of them opens the gate, so they divide the
// share of unrelated text above `lo` that one gate would have (gate_shares.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "adapt/sequences.h"
#include "indexer/document_groups.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {

struct GateOptions {
  float n0 = 4;         // findings F3
  float common = 0.3f;  // docs/decisions/001-gate-evidence.md
  uint32_t window = 128;
};

// e_t of every token of a sequence, for each group of the gate.
struct SequenceEvidence {
  uint32_t group = 0;         // of its document, of related text
  std::vector<float> values;  // [tokens, groups]
};

struct GateSamples {
  std::vector<SequenceEvidence> related;    // held-out reference documents
  std::vector<SequenceEvidence> unrelated;  // general text
};

// A ramp, as quantiles of the mean m_t on unrelated text (lo) and on held-out reference text (hi).
struct GateQuantiles {
  double unrelated = 0.99;
  double related = 0.25;
};

// A gate with the token pairs of the reference text, those of `unrelated` marked as common; prior, lo and hi are still
// to be set (SetRamp), on other unrelated text than this. Errors (kInvalidArgument): no pair at all.
Result<OwnedGate> MakeGate(std::span<const Sequence> reference, std::span<const Sequence> unrelated,
                           const DocumentGroups& groups, const GateOptions& options);
GateSamples SampleGate(const OwnedGate& gate, std::span<const Sequence> related, std::span<const Sequence> unrelated,
                       const DocumentGroups& groups);
// Sets prior, lo and hi of each group from the samples. A ramp is at least kMinRamp wide. With a larger share of
// unrelated text no group's lo is higher.
void SetRamp(const GateSamples& samples, const GateQuantiles& quantiles, OwnedGate& gate);
inline constexpr float kMinRamp = 0.002f;

// Mean G over all tokens of some samples; of several groups' samples, the mean of each group's.
double Openness(std::span<const SequenceEvidence> evidence, const OwnedGate& gate);

// Sets the ramp that opens most on related text among those of a grid of quantiles that `harmless` accepts, and returns
// its quantiles; the tightest ramp and nothing where it accepts none. A ramp that is at least as shut for every text as
// an accepted one counts as accepted, so that `harmless`, which is dear, is asked about 15 times for 40 ramps.
using HarmlessRamp = std::function<Result<bool>(const OwnedGate& gate, const GateQuantiles& quantiles)>;
Result<std::optional<GateQuantiles>> SetMostOpenRamp(const GateSamples& samples, const HarmlessRamp& harmless,
                                                     OwnedGate& gate);

// The sequences (of samples.related or samples.unrelated) for which the gate opens at any token.
std::vector<size_t> OpenSequences(std::span<const SequenceEvidence> evidence, const OwnedGate& gate);

}  // namespace pointsman
