// MANIFEST.json: what a memory is. ParseManifest holds every field to the rules of schemas/manifest.schema.json (types,
// ranges, hex strings, required keys, no unknown keys) before any is used; tests hold parser and schema together on
// schemas/examples/. Plain values and pure functions: any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "memory/result.h"
#include "memory/routing_tables.h"

namespace pointsman {

inline constexpr int kFormatVersion = 1;

// Of the model a memory was built for (design.md 6). Computed by models/.
struct Fingerprint {
  std::string architecture;      // "olmoe"
  std::string config_sha256;     // of the canonical configuration fields
  std::string router_sha256;     // of all router weights widened to fp32
  std::string tokenizer_sha256;  // of the canonical vocabulary and merges
  std::string dtype;             // recorded, a mismatch warns
  std::string experts_sha256;    // recorded, a mismatch warns
  bool operator==(const Fingerprint&) const = default;
};

struct VerdictSummary {
  std::string verdict = "absent";  // adopt | reject | inconclusive | absent
  bool stale = false;
  // Nats per token, < 0 is better. The ends of the 95 % interval are infinite for fewer than two documents.
  double gain = 0, gain_low = 0, gain_high = 0;
  double damage = 0, damage_low = 0, damage_high = 0;
  uint64_t test_documents = 0, test_tokens = 0;
};

// What routing with the memory meets on text of its own kind: means over tokens, and over layers where each has its
// own.
struct RoutingSignal {
  uint64_t tokens = 0;
  double open_share = 0;       // of tokens with G > 0
  double gate_mean = 0;        // of G
  double confidence_mean = 0;  // of G g
  double similarity_mean = 0;  // of the nearest key, over open tokens: others are not searched for
};

struct Manifest {
  int format_version = kFormatVersion;
  uint64_t generation = 0;      // derived/gen-NNN that this manifest publishes
  uint64_t truth_sequence = 0;  // last change of truth/ when it was published
  MemoryKind kind = MemoryKind::kPrototypes;
  ValueKind value_kind = ValueKind::kDelta;
  Fingerprint fingerprint;
  std::string transform_sha256;
  std::string digest;
  uint64_t seed = 0;
  std::string created;  // ISO 8601, UTC
  uint64_t reference_documents = 0, reference_tokens = 0, entries = 0;
  uint64_t calibration_documents = 0, test_documents = 0;
  uint64_t test_looks = 0;                      // how often the test split was scored
  bool has_text = true;                         // false with --no-text
  std::map<std::string, std::string> settings;  // build settings, by their flag's name
  std::vector<std::string> off_domain_sources;  // general text that calibrated the gate and measured damage
  std::vector<std::string> test_sha256;         // content hashes of the test split
  std::vector<std::string> damage_sha256;       // content hashes of the unrelated text kept for damage
  VerdictSummary verdict;
  // On held-out documents (the calibration split), what a live server compares with. Absent in older memories.
  std::optional<RoutingSignal> calibration;
};

// kCorrupt with the JSON path of the first offending field; kUnsupported for a newer format version.
Result<Manifest> ParseManifest(const std::string& json_text, const std::string& path_for_errors);
// Stable key order, indented, ends with a newline. Always JSON, but valid by the schema only if the fields are.
std::string SerializeManifest(const Manifest& manifest);

}  // namespace pointsman
