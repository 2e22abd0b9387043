#include "router/blend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "memory/routing_tables_owned.h"
#include "router/confidence.h"
#include "router/context_gate.h"

namespace pointsman {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

json ReadGolden() { return json::parse(std::ifstream(POINTSMAN_SOURCE_DIR "/schemas/blend_golden.json")); }

template <typename T>
std::vector<T> Flatten(const json& rows) {
  std::vector<T> flat;
  for (const json& row : rows) {
    for (const json& value : row) flat.push_back(value.get<T>());
  }
  return flat;
}

std::vector<float> Floats(const json& values) { return values.get<std::vector<float>>(); }

ValueKind KindOf(const std::string& name) {
  return std::map<std::string, ValueKind>{
      {"delta", ValueKind::kDelta}, {"logits", ValueKind::kLogits}, {"assignments", ValueKind::kAssignments}}
      .at(name);
}

ConfidenceRule RuleOf(const std::string& name) {
  return std::map<std::string, ConfidenceRule>{{"mean_similarity", ConfidenceRule::kMeanSimilarity},
                                               {"max_similarity", ConfidenceRule::kMaxSimilarity},
                                               {"mean_kernel", ConfidenceRule::kMeanKernel},
                                               {"aggregate", ConfidenceRule::kAggregate}}
      .at(name);
}

OwnedLayer LayerOf(const json& golden) {
  OwnedLayer layer;
  layer.experts = golden["experts"];
  layer.keys.hidden = layer.keys.dim = golden.contains("hidden") ? golden["hidden"].size() : 1;
  layer.keys.codes.assign(golden["values"].size() * layer.keys.dim, 0);
  layer.keys.code_scales.assign(golden["values"].size(), 1.0f);
  layer.values = Flatten<int8_t>(golden["values"]);
  layer.value_scales = Floats(golden["value_scales"]);
  layer.calibration = {.k = static_cast<int32_t>(golden["similarities"].size()),
                       .tau = golden["tau"],
                       .tau2 = golden["tau2"],
                       .scale = golden["scale"],
                       .confidence = RuleOf(golden["confidence_rule"])};
  if (golden.contains("router_delta")) layer.router_delta = Flatten<float>(golden["router_delta"]);
  if (golden.contains("token_table")) {
    layer.token_table = Flatten<int8_t>(golden["token_table"]);
    layer.token_table_scales = Floats(golden["token_table_scales"]);
    if (golden.contains("token_ids")) layer.token_ids = golden["token_ids"].get<std::vector<uint32_t>>();
  }
  return layer;
}

std::vector<Neighbour> NeighboursOf(const json& golden) {
  std::vector<Neighbour> neighbours;
  for (const json& similarity : golden["similarities"]) {
    neighbours.push_back({.similarity = similarity, .row = static_cast<uint32_t>(neighbours.size())});
  }
  return neighbours;
}

TEST(BlendGolden, MatchesDoublePrecision) {
  const json golden = ReadGolden();
  ASSERT_GE(golden["cases"].size(), 60u);
  Blender blender;
  for (const json& test : golden["cases"]) {
    SCOPED_TRACE(test["name"].get<std::string>());
    OwnedTables owned;
    owned.layers.push_back(LayerOf(test));
    const auto tables = MakeTables(std::move(owned));
    const auto neighbours = NeighboursOf(test);
    const std::vector<float> hidden = test.contains("hidden") ? Floats(test["hidden"]) : std::vector<float>(1);
    const std::vector<float> before = Floats(test["logits"]);
    const json& expected = test["expected"];

    std::vector<float> after = before;
    const BlendInput input{.neighbours = neighbours,
                           .hidden = hidden,
                           .token = test.value("token", kNoToken),
                           .strength = test["strength"],
                           .gate = test["gate"]};
    const BlendOutcome outcome =
        blender.Blend(tables->layers[0], KindOf(test["value_kind"]), test["top_k"], input, after);

    EXPECT_EQ(outcome.touched, expected["touched"].get<bool>());
    EXPECT_NEAR(outcome.confidence, expected["confidence"].get<double>(), 1e-6);
    if (!outcome.touched) {
      EXPECT_EQ(std::memcmp(after.data(), before.data(), after.size() * sizeof(float)), 0);
    }
    for (size_t e = 0; e < after.size(); ++e) {
      EXPECT_NEAR(after[e], expected["logits"][e].get<double>(), golden["tolerance"].get<double>()) << "expert " << e;
    }
  }
}

TEST(BlendGolden, WeightsMatchDoublePrecision) {
  const json golden = ReadGolden();
  for (const json& test : golden["cases"]) {
    SCOPED_TRACE(test["name"].get<std::string>());
    const auto neighbours = NeighboursOf(test);
    const auto found = FoundNeighbours(neighbours);
    ASSERT_EQ(found.size(), test["expected"]["weights"].size());
    std::vector<float> weights(found.size());
    NeighbourWeights(found, test["tau"], weights);
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_NEAR(weights[i], test["expected"]["weights"][i].get<double>(), 1e-6);
    }
  }
}

TEST(GateGolden, MatchesDoublePrecision) {
  const json golden = ReadGolden();
  for (const json& test : golden["gate_cases"]) {
    SCOPED_TRACE(test["name"].get<std::string>());
    GateView gate;
    gate.n0 = test["n0"];
    gate.window = test["window"];
    gate.groups.clear();
    std::vector<std::vector<double>> evidence;
    for (const json& group : test["groups"]) {
      gate.groups.push_back({.name = "", .prior = group["prior"], .lo = group["lo"], .hi = group["hi"]});
      evidence.push_back(group["evidence"]);
    }
    for (uint32_t position = 0; position < test["expected"].size(); ++position) {
      const uint32_t count = std::min(position + 1, gate.window);
      std::vector<double> sums;
      for (const std::vector<double>& one : evidence) {
        const auto end = one.begin() + position + 1;
        sums.push_back(std::accumulate(end - count, end, 0.0));
      }
      const float value = GateValue(gate, sums, count);
      EXPECT_NEAR(value, test["expected"][position].get<double>(), 1e-6) << "position " << position;
    }
  }
}

TEST(Confidence, UnusableConstantsMeanNoConfidence) {
  const std::vector<Neighbour> neighbours = {{.similarity = 1.0f, .row = 0}};
  EXPECT_EQ(Confidence(ConfidenceRule::kMaxSimilarity, 0.0f, neighbours), 0.0f);  // exp(0 / 0)
  EXPECT_EQ(Confidence(ConfidenceRule::kMaxSimilarity, 0.5f, {}), 0.0f);
}

TEST(Confidence, AggregateIsTheSumAndAverageTheMean) {
  const std::vector<Neighbour> neighbours = {{.similarity = 0.5f, .row = 0}, {.similarity = 0.0f, .row = 1}};
  const float sum = std::exp(-0.5f / 0.5f) + std::exp(-1.0f / 0.5f);
  EXPECT_FLOAT_EQ(Confidence(ConfidenceRule::kAggregate, 0.5f, neighbours), sum);
  EXPECT_FLOAT_EQ(Confidence(ConfidenceRule::kMeanKernel, 0.5f, neighbours), sum / 2);
  EXPECT_FLOAT_EQ(Confidence(ConfidenceRule::kMaxSimilarity, 0.5f, neighbours), std::exp(-1.0f));
  EXPECT_FLOAT_EQ(Confidence(ConfidenceRule::kMeanSimilarity, 0.5f, neighbours), std::exp(-0.75f / 0.5f));
}

// Pairs (1, 2) of group 0, (2, 3) of both and common, (3, 4) of group 1.
struct PairGate {
  std::vector<uint64_t> pairs{uint64_t{1} << 32 | 2, uint64_t{2} << 32 | 3, uint64_t{3} << 32 | 4};
  std::vector<uint8_t> is_common{0, 1, 0};
  std::vector<uint16_t> pair_groups{1, 3, 2};
  GateView view{.enabled = true,
                .n0 = 2,
                .common = 0.5f,
                .window = 6,
                .groups = {{.name = "a", .prior = 0.25f, .lo = 0.2f, .hi = 0.7f},
                           {.name = "b", .prior = 0.125f, .lo = 0.4f, .hi = 0.8f}},
                .pairs = pairs,
                .is_common = is_common,
                .pair_groups = pair_groups};

  std::vector<double> Evidence(int32_t previous, int32_t token) const {
    std::vector<double> evidence(view.groups.size());
    GateEvidence(view, previous, token, evidence);
    return evidence;
  }
};

TEST(GateEvidence, IsOneForAPairOfTheReferenceLessForACommonOneElseNothing) {
  PairGate gate;
  EXPECT_THAT(gate.Evidence(1, 2), ElementsAre(1.0, 0.0));
  EXPECT_THAT(gate.Evidence(2, 3), ElementsAre(0.5, 0.5));
  EXPECT_THAT(gate.Evidence(3, 4), ElementsAre(0.0, 1.0));
  EXPECT_THAT(gate.Evidence(3, 2), ElementsAre(0.0, 0.0));
  EXPECT_THAT(gate.Evidence(9, 9), ElementsAre(0.0, 0.0));
  EXPECT_THAT(gate.Evidence(kNoToken, 2), ElementsAre(0.25, 0.125));
  EXPECT_THAT(gate.Evidence(1, kNoToken), ElementsAre(0.25, 0.125));
  gate.view.pair_groups = {};  // one group has all pairs
  gate.view.groups.pop_back();
  EXPECT_THAT(gate.Evidence(3, 4), ElementsAre(1.0));
}

std::vector<float> GatesOf(const GateView& gate, std::span<const int32_t> text) {
  GateState state;
  for (uint32_t t = 0; t < text.size(); ++t) state.Append(gate, t, text[t]);
  return state.History(gate);
}

TEST(GateState, TheMostOpenGroupCounts) {
  const PairGate both;
  const std::vector<int32_t> text{1, 2, 1, 2, 1, 2, 9, 9, 9, 3, 4, 3, 4, 3, 4, 3, 4, 2, 3};
  const std::vector<float> any = GatesOf(both.view, text);
  // Each group as a gate of its own, with its pairs alone.
  std::vector<float> alone[2];
  for (size_t group = 0; group < 2; ++group) {
    PairGate one;
    one.pairs.clear();
    one.is_common.clear();
    for (size_t i = 0; i < both.pairs.size(); ++i) {
      if ((both.pair_groups[i] >> group & 1) == 0) continue;
      one.pairs.push_back(both.pairs[i]);
      one.is_common.push_back(both.is_common[i]);
    }
    one.view.groups = {both.view.groups[group]};
    one.view.pairs = one.pairs;
    one.view.is_common = one.is_common;
    one.view.pair_groups = {};
    alone[group] = GatesOf(one.view, text);
  }
  size_t first = 0, second = 0;
  for (size_t t = 0; t < any.size(); ++t) {
    EXPECT_EQ(any[t], std::max(alone[0][t], alone[1][t])) << t;
    first += alone[0][t] > alone[1][t];
    second += alone[1][t] > alone[0][t];
  }
  EXPECT_GT(first, 2u);
  EXPECT_GT(second, 2u);
}

TEST(GateState, AnotherTokenRewindsToItsPosition) {
  const PairGate gate;
  const std::vector<int32_t> text{1, 2, 3, 1, 2, 9, 1, 2, 3, 3};
  GateState straight, rewound;
  for (uint32_t t = 0; t < text.size(); ++t) straight.Append(gate.view, t, text[t]);
  for (uint32_t t = 0; t < text.size(); ++t) rewound.Append(gate.view, t, t < 4 ? text[t] : 7);
  for (uint32_t t = 4; t < text.size(); ++t) rewound.Append(gate.view, t, text[t]);
  EXPECT_EQ(rewound.recorded(), text.size());
  EXPECT_EQ(rewound.History(gate.view), straight.History(gate.view));
}

TEST(GateState, PositionsNeverRecordedCountAsPrior) {
  const PairGate gate;
  GateState with_hole, filled;
  with_hole.Append(gate.view, 3, 2);
  for (uint32_t t = 0; t < 3; ++t) filled.Append(gate.view, t, kNoToken);
  filled.Append(gate.view, 3, 2);
  EXPECT_EQ(with_hole.History(gate.view), filled.History(gate.view));
}

}  // namespace
}  // namespace pointsman
