// Random memories and inputs for the router's tests: small, from a seed, the same on every machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "memory/routing_tables_owned.h"
#include "router/router.h"

namespace pointsman::testing {

inline constexpr uint32_t kHidden = 12;
inline constexpr uint32_t kExperts = 10;
inline constexpr uint32_t kVocabulary = 7;
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(engine_() % bound); }
  bool Chance(uint32_t percent) { return Below(100) < percent; }
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(engine_() >> 8) / static_cast<float>(1u << 24);
  }
  std::vector<float> Floats(size_t count, float low, float high) {
    std::vector<float> values(count);
    for (float& value : values) value = Uniform(low, high);
    return values;
  }
  // Rows of unit length.
  std::vector<float> UnitRows(size_t rows, size_t width) {
    std::vector<float> values = Floats(rows * width, -1, 1);
    for (size_t row = 0; row < rows; ++row) {
      float norm = 0;
      for (size_t i = 0; i < width; ++i) norm += values[row * width + i] * values[row * width + i];
      for (size_t i = 0; i < width; ++i) values[row * width + i] /= std::sqrt(norm);
    }
    return values;
  }

 private:
  std::mt19937 engine_;
};

struct TableOptions {
  ValueKind kind = ValueKind::kDelta;
  ConfidenceRule confidence = ConfidenceRule::kMeanSimilarity;
  std::vector<int32_t> layers = {0, 1, 3};
  uint32_t rows = 40;
  int32_t k = 4;
  bool gate = true;
  bool trained_parts = false;
  uint32_t gate_groups = 1;
};

inline OwnedKeyIndex RandomKeys(Random& random, uint32_t rows) {
  OwnedKeyIndex keys{.hidden = kHidden, .dim = kHidden, .mean = {}, .projection = {}, .codes = {}, .code_scales = {}};
  keys.SetKeys(random.UnitRows(rows, kHidden));
  return keys;
}

// The gate's ramp is laid so that random text lands below, on and above it.
inline OwnedTables RandomOwnedTables(uint32_t seed, const TableOptions& options) {
  Random random(seed);
  OwnedTables tables;
  tables.value_kind = options.kind;
  tables.top_k = 3;
  for (const int32_t index : options.layers) {
    OwnedLayer layer;
    layer.layer = index;
    layer.experts = kExperts;
    layer.keys = RandomKeys(random, options.rows);
    const bool weights = options.kind == ValueKind::kAssignments;
    layer.SetValues(random.Floats(size_t{options.rows} * kExperts, weights ? 0.0f : -2.0f, weights ? 0.2f : 2.0f));
    layer.calibration = {.k = options.k, .tau = 0.25f, .tau2 = 0.5f, .scale = 1.5f, .confidence = options.confidence};
    if (options.trained_parts) {
      layer.router_delta = random.Floats(kExperts * kHidden, -0.3f, 0.3f);
      layer.SetTokenTable(random.Floats(kVocabulary * kExperts, -1, 1));
    }
    tables.layers.push_back(std::move(layer));
  }
  tables.gate = {.enabled = options.gate,
                 .n0 = 1,
                 .common = 0.3f,
                 .window = 9,
                 .groups = {{.name = "", .prior = 0.3f, .lo = 0.35f, .hi = 0.5f}},
                 .pairs = {},
                 .is_common = {},
                 .pair_groups = {}};
  if (options.gate_groups > 1) tables.gate.groups.front().name = "group 0";
  for (uint32_t group = 1; group < options.gate_groups; ++group) {
    tables.gate.groups.push_back({.name = "group " + std::to_string(group),
                                  .prior = 0.1f,
                                  .lo = 0.25f,
                                  .hi = 0.3f + 0.1f * static_cast<float>(group)});
  }
  for (uint64_t previous = 0; previous < kVocabulary; ++previous) {
    for (uint64_t token = 0; token < kVocabulary; ++token) {
      if (random.Chance(40)) continue;
      tables.gate.pairs.push_back(previous << 32 | token);
      tables.gate.is_common.push_back(random.Chance(50));
      if (options.gate_groups > 1) {
        tables.gate.pair_groups.push_back(static_cast<uint16_t>(1 + random.Below((1u << options.gate_groups) - 1)));
      }
    }
  }
  return tables;
}

inline std::shared_ptr<const RoutingTables> RandomTables(uint32_t seed, const TableOptions& options = {}) {
  return MakeTables(RandomOwnedTables(seed, options));
}

inline std::shared_ptr<const SessionVectors> RandomSession(uint32_t seed, size_t layers) {
  Random random(seed);
  SessionVectors session;
  for (size_t i = 0; i < layers; ++i) session.by_layer.push_back(random.Floats(kExperts, -1, 1));
  return std::make_shared<SessionVectors>(std::move(session));
}

inline bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A text as a router sees it: hidden states and logits of every position at every layer.
struct Text {
  Text(uint32_t seed, size_t length, size_t layers) {
    Random random(seed);
    for (size_t layer = 0; layer < layers; ++layer) {
      hidden.push_back(random.Floats(length * kHidden, -1, 1));
      logits.push_back(random.Floats(length * kExperts, -4, 4));
    }
    for (size_t i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(random.Below(kVocabulary)));
  }
  std::vector<std::vector<float>> hidden;  // by layer, [length, H]
  std::vector<std::vector<float>> logits;  // by layer, [length, E]
  std::vector<int32_t> tokens;
};

// Positions [first, last) of a text for one slot.
struct Piece {
  uint32_t slot = 0;
  const Text* text = nullptr;
  uint32_t first = 0;
  uint32_t last = 0;
};

struct StepResult {
  std::vector<float> gate;                 // [T]
  std::vector<std::vector<float>> logits;  // by layer, [T, E]
};

// One forward pass over the pieces, in their order. Fails the test on an error.
inline StepResult RunStep(Router& router, const std::vector<Piece>& pieces, std::vector<RowTrace>* trace = nullptr) {
  std::vector<uint32_t> slots, positions;
  std::vector<int32_t> tokens;
  for (const Piece& piece : pieces) {
    for (uint32_t position = piece.first; position < piece.last; ++position) {
      slots.push_back(piece.slot);
      positions.push_back(position);
      tokens.push_back(piece.text->tokens[position]);
    }
  }
  auto step = router.BeginStep(slots, positions, tokens);
  if (!step.ok()) {
    ADD_FAILURE() << step.error().message;
    return {};
  }
  StepResult result;
  for (size_t layer = 0; layer < pieces.front().text->hidden.size(); ++layer) {
    std::vector<float> hidden, logits;
    for (const Piece& piece : pieces) {
      const auto rows = [&](const std::vector<float>& matrix, uint32_t width) {
        return std::span(matrix).subspan(piece.first * width, (piece.last - piece.first) * width);
      };
      std::ranges::copy(rows(piece.text->hidden[layer], kHidden), std::back_inserter(hidden));
      std::ranges::copy(rows(piece.text->logits[layer], kExperts), std::back_inserter(logits));
    }
    const Status status = router.Route(step.value(), static_cast<int32_t>(layer), hidden, logits, trace);
    if (!status.ok()) ADD_FAILURE() << status.error().message;
    result.logits.push_back(std::move(logits));
  }
  result.gate = step.value().gate;
  return result;
}

}  // namespace pointsman::testing
