// The data that routing reads, as plain views: what a published generation maps from disk, and what a builder holds in
// vectors before it publishes. router/ sees only this file of memory/; nothing here knows where the bytes live.
//
// Shapes: H = hidden size of the model, E = experts of a layer, D = key dimensions, R = rows (entries or prototypes) of
// a layer, N = tokens of a token table. All arrays row-major. Views never own; RoutingTables::storage keeps the bytes
// alive. Immutable after construction: any number of threads may read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pointsman {

enum class MemoryKind : uint8_t { kEntries = 0, kPrototypes = 1 };

// What a value votes for (design.md 5).
enum class ValueKind : uint8_t {
  kDelta = 0,        // change of the router's logits: z' = z + strength * G * g * scale * sum_i w_i v_i
  kLogits = 1,       // logits r_i (kNN-MoE v2):        z' = (1 - lambda) z + lambda sum_i w_i r_i
  kAssignments = 2,  // top-k weights a_i, sum 1 (v1):  see blend.h
};

// How the similarities s_1..s_k of the neighbours become the per-token confidence g in [0, 1].
enum class ConfidenceRule : uint8_t {
  kMeanSimilarity = 0,  // g = exp((mean_i s_i - 1) / tau2)      findings F1: entries
  kMaxSimilarity = 1,   // g = exp((max_i s_i - 1) / tau2)       findings F2: prototypes
  kMeanKernel = 2,      // g = mean_i exp((s_i - 1) / tau2)      kNN-MoE v2, average
  kAggregate = 3,       // g = min(1, sum_i exp((s_i - 1) / tau2))  kNN-MoE v1
};

// Learned or fitted constants of one layer. Weights are w = softmax_i(s_i / tau).
struct LayerCalibration {
  int32_t k = 16;
  float tau = 0.5f;
  float tau2 = 0.5f;
  float scale = 1.0f;
  ConfidenceRule confidence = ConfidenceRule::kMeanSimilarity;
};

// Keys of one search: q = normalise(projection (h - mean)), stored keys are int8 with one scale a row.
struct KeyIndexView {
  uint32_t hidden = 0;                 // H
  uint32_t dim = 0;                    // D
  uint64_t rows = 0;                   // R
  std::span<const float> mean;         // [H], or empty: no centering
  std::span<const float> projection;   // [D, H], or empty: D == H, no projection (raw keys)
  std::span<const int8_t> codes;       // [R, D]
  std::span<const float> code_scales;  // [R]: key = code * scale
};

// Where an entry comes from: an index into RoutingTables::documents and the token's position in that document.
struct EntryRef {
  uint32_t document = 0xffffffffu;  // kNoDocument: unused slot of a prototype's list
  uint32_t position = 0;
};
inline constexpr uint32_t kNoDocument = 0xffffffffu;

struct LayerView {
  int32_t layer = 0;     // index in the model
  uint32_t experts = 0;  // E
  KeyIndexView keys;
  std::span<const int8_t> values;        // [R, E]: value = code * scale
  std::span<const float> value_scales;   // [R]
  std::span<const EntryRef> references;  // [R] for entries, [R, kPrototypeReferences] for prototypes; may be empty
  LayerCalibration calibration;
  // Optional trained parts, under the same gate: change += router_delta h + token_table[token].
  std::span<const float> router_delta;        // [E, H] or empty
  std::span<const int8_t> token_table;        // [N, E] or empty
  std::span<const float> token_table_scales;  // [N]
  std::span<const uint32_t> token_ids;        // [N] ascending, whose rows these are; empty: row v is token v's
};

inline constexpr uint32_t kPrototypeReferences = 8;

// A group of documents that the context gate opens for on their own evidence; a memory of one domain has one.
struct GateGroup {
  std::string name;    // "" where the memory has one group; else the tag of its documents
  float prior = 0.0f;  // mean evidence of unrelated text; what an unknown token counts
  float lo = 0.0f;     // the ramp
  float hi = 1.0f;
  bool operator==(const GateGroup&) const = default;
};
inline constexpr size_t kMostGateGroups = 16;  // bits of a pair's mark

// Context gate: does the text so far read like the reference text of any group j? Evidence of a token, given the one
// before it:
//   e_t = 1 if the pair stands in the group's text, `common` if unrelated text has it too, else 0
//   m_t = (n0 * prior_j + the last n of e_1 .. e_t) / (n0 + n), n = min(t, window)
//   G_t = max_j clip((m_t - lo_j) / (hi_j - lo_j), 0, 1)
// It depends on token ids alone, so G is known before the first layer (docs/decisions/001-gate-evidence.md).
struct GateView {
  bool enabled = false;  // false: G = 1 everywhere (a variant without the gate)
  float n0 = 4.0f;
  float common = 0.3f;    // 0..1
  uint32_t window = 128;  // tokens, at least 1: how soon a change of subject is noticed
  std::vector<GateGroup> groups = std::vector<GateGroup>(1);  // 1..kMostGateGroups
  std::span<const uint64_t> pairs;                            // [P], ascending: previous token << 32 | token
  std::span<const uint8_t> is_common;                         // [P], 1: unrelated text has the pair too
  std::span<const uint16_t> pair_groups;  // [P], bit j: it stands in the text of group j; empty with one group
};

// A tau2 with which g is 1 whatever the similarity.
inline constexpr float kSureAtAnyDistance = 1e9f;

// Optional output memory (kNN-LM; design.md 8 `knn_lm`, `memory+output`): the same reference tokens vote on the next
// token instead of on experts. q is the model's last hidden state (after the final norm, what the lm head reads):
//   p = (1 - w) p_LM + w sum_j softmax_j(s_j / tau) [next_tokens_j]    over the k nearest keys,
//   w = lambda G g,  g = exp((max_j s_j - 1) / tau2): far neighbours say less (docs/decisions/006-output-memory.md).
// Under the context gate of the tables, like the routing; formulas and order of operations: router/output_vote.h.
struct OutputView {
  bool enabled = false;
  uint32_t vocabulary = 0;  // V of the model: every next token is below it
  int32_t k = 64;
  float tau = 0.1f;
  float lambda = 0.0f;  // 0..0.99; 0: the output memory is silent
  float tau2 = kSureAtAnyDistance;
  KeyIndexView keys;
  std::span<const int32_t> next_tokens;  // [R]
  std::span<const EntryRef> references;  // [R]: where the next token stands; may be empty
};

struct RoutingTables {
  MemoryKind kind = MemoryKind::kEntries;
  ValueKind value_kind = ValueKind::kDelta;
  uint32_t top_k = 0;             // experts per token of the model (assignments need it)
  std::vector<LayerView> layers;  // ascending by layer; layers without memory are absent
  GateView gate;
  OutputView output;
  std::vector<std::string> documents;   // names, by EntryRef::document
  std::shared_ptr<const void> storage;  // keeps what the views point into
};

}  // namespace pointsman
