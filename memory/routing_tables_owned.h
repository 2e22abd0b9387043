// RoutingTables whose arrays live in vectors: what a builder fills before it publishes, and how tests make a memory in
// RAM. The fields mirror routing_tables.h one to one; shapes and meanings are documented there.
//
//   OwnedTables owned;
//   owned.layers.push_back(...);
//   std::shared_ptr<const RoutingTables> tables = MakeTables(std::move(owned));
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory/result.h"
#include "memory/routing_tables.h"

namespace pointsman {

struct OwnedKeyIndex {
  uint32_t hidden = 0;             // H
  uint32_t dim = 0;                // D
  std::vector<float> mean;         // [H] or empty
  std::vector<float> projection;   // [D, H] or empty
  std::vector<int8_t> codes;       // [R, D]; R follows from its size
  std::vector<float> code_scales;  // [R]

  // Fills codes and code_scales from keys that are already transformed and normalised, [R, D].
  // REQUIRES: dim is set.
  void SetKeys(const std::vector<float>& keys);
};

struct OwnedLayer {
  int32_t layer = 0;
  uint32_t experts = 0;  // E
  OwnedKeyIndex keys;
  std::vector<int8_t> values;        // [R, E]
  std::vector<float> value_scales;   // [R]
  std::vector<EntryRef> references;  // [R], [R, kPrototypeReferences] or empty
  LayerCalibration calibration;
  std::vector<float> router_delta;        // [E, H] or empty
  std::vector<int8_t> token_table;        // [N, E] or empty
  std::vector<float> token_table_scales;  // [N]
  std::vector<uint32_t> token_ids;        // [N] or empty

  // Fills values and value_scales, int8 with one scale a row, from fp32 [R, E]. REQUIRES: experts is set.
  void SetValues(const std::vector<float>& rows);
  // The same for the token table, from fp32 [V, E].
  void SetTokenTable(const std::vector<float>& rows);
};

struct OwnedGate {
  bool enabled = false;
  float n0 = 4.0f;
  float common = 0.3f;
  uint32_t window = 128;
  std::vector<GateGroup> groups = std::vector<GateGroup>(1);
  std::vector<uint64_t> pairs;        // [P], ascending
  std::vector<uint8_t> is_common;     // [P]
  std::vector<uint16_t> pair_groups;  // [P], or empty with one group
};

struct OwnedOutput {
  bool enabled = false;
  uint32_t vocabulary = 0;
  int32_t k = 64;
  float tau = 0.1f;
  float lambda = 0.0f;
  float tau2 = kSureAtAnyDistance;
  OwnedKeyIndex keys = {};
  std::vector<int32_t> next_tokens = {};  // [R]
  std::vector<EntryRef> references = {};  // [R] or empty
};

struct OwnedTables {
  MemoryKind kind = MemoryKind::kEntries;
  ValueKind value_kind = ValueKind::kDelta;
  uint32_t top_k = 0;
  std::vector<OwnedLayer> layers;
  OwnedGate gate;
  std::vector<std::string> documents;
  OwnedOutput output;
};

// Views for searching before anything is published. Valid while the owner lives unchanged.
KeyIndexView ViewOf(const OwnedKeyIndex& keys);
GateView ViewOf(const OwnedGate& gate);
OutputView ViewOf(const OwnedOutput& output);

// Views over `owned`, which moves into the result's `storage`. Copies of the RoutingTables share it.
std::shared_ptr<const RoutingTables> MakeTables(OwnedTables owned);

// What every RoutingTables must satisfy before it is routed with or written: array sizes agree with the counts, layers
// ascend, references name a document, 1 <= k <= 1024, scales and calibration are finite. kCorrupt names layer and
// field.
Status CheckTables(const RoutingTables& tables);

}  // namespace pointsman
