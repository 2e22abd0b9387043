// Random operations on a Router against a model of it that keeps every text seen, batches nothing, remembers no sums
// and computes the formulas of design.md 5 in double precision, row by row.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "router/router.h"
#include "router/test_tables.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures

constexpr int32_t kLayers = 4;
using Row = std::vector<float>;

std::vector<double> Similarities(const std::vector<Neighbour>& neighbours) {
  std::vector<double> similarities;
  for (const Neighbour& neighbour : neighbours) similarities.push_back(neighbour.similarity);
  return similarities;
}

std::vector<Neighbour> Search(const KeyIndexView& keys, const Row& hidden, int32_t k) {
  std::vector<Neighbour> neighbours(std::min<uint64_t>(k, keys.rows));
  if (!neighbours.empty()) SearchExact(keys, hidden, static_cast<uint32_t>(neighbours.size()), neighbours);
  return neighbours;
}

bool Finite(const Row& row) {
  return std::ranges::all_of(row, [](float value) { return std::isfinite(value); });
}

double ModelConfidence(const LayerCalibration& c, const std::vector<double>& s) {
  if (s.empty()) return 0;
  double kernels = 0;
  for (const double value : s) kernels += std::exp((value - 1) / c.tau2);
  const double mean = std::accumulate(s.begin(), s.end(), 0.0) / s.size();
  const std::map<ConfidenceRule, double> g = {
      {ConfidenceRule::kMeanSimilarity, std::exp((mean - 1) / c.tau2)},
      {ConfidenceRule::kMaxSimilarity, std::exp((*std::ranges::max_element(s) - 1) / c.tau2)},
      {ConfidenceRule::kMeanKernel, kernels / s.size()},
      {ConfidenceRule::kAggregate, kernels}};
  return std::min(1.0, g.at(c.confidence));
}

std::vector<double> ModelMix(const LayerView& layer, const std::vector<Neighbour>& neighbours) {
  std::vector<double> mix(kExperts, 0.0);
  double total = 0;
  for (const Neighbour& n : neighbours) total += std::exp(n.similarity / layer.calibration.tau);
  for (const Neighbour& n : neighbours) {
    const double weight = std::exp(n.similarity / layer.calibration.tau) / total * layer.value_scales[n.row];
    for (uint32_t e = 0; e < kExperts; ++e) mix[e] += weight * layer.values[n.row * kExperts + e];
  }
  return mix;
}

std::vector<double> ModelAssignments(const Row& z, uint32_t top_k, double lambda, const std::vector<double>& mix) {
  std::vector<double> q(kExperts), p(kExperts);
  double total = 0, mass = 0;
  for (uint32_t e = 0; e < kExperts; ++e) total += q[e] = std::exp(static_cast<double>(z[e]));
  std::vector<bool> chosen(kExperts);
  for (uint32_t e = 0; e < kExperts; ++e) {
    q[e] /= total;
    uint32_t better = 0;
    for (uint32_t f = 0; f < kExperts; ++f) better += z[f] > z[e] || (z[f] == z[e] && f < e);
    chosen[e] = better < top_k;
    if (chosen[e]) mass += q[e];
  }
  for (uint32_t e = 0; e < kExperts; ++e) {
    p[e] = (1 - lambda) * q[e] + lambda * (mass * mix[e] + (chosen[e] ? 0.0 : q[e]));
    p[e] = std::log(std::max(p[e], 1e-9));
  }
  return p;
}

// The logits after the memory, or nothing when the weight is 0.
std::optional<std::vector<double>> ModelBlend(const RoutingTables& tables, const LayerView& layer, const Row& hidden,
                                              int32_t token, double weight, const Row& z) {
  if (weight <= 0) return std::nullopt;
  const auto neighbours = Search(layer.keys, hidden, layer.calibration.k);
  const double g = ModelConfidence(layer.calibration, Similarities(neighbours));
  const double lambda = std::min(1.0, weight * g);
  const auto mix = ModelMix(layer, neighbours);
  if (tables.value_kind != ValueKind::kDelta && lambda == 0) return std::nullopt;
  if (tables.value_kind == ValueKind::kAssignments) return ModelAssignments(z, tables.top_k, lambda, mix);
  std::vector<double> out(kExperts);
  bool touched = lambda > 0;
  for (uint32_t e = 0; e < kExperts; ++e) {
    if (tables.value_kind == ValueKind::kLogits) {
      out[e] = (1 - lambda) * z[e] + lambda * mix[e];
      continue;
    }
    double change = g * layer.calibration.scale * mix[e];
    if (!layer.router_delta.empty()) {
      for (uint32_t i = 0; i < kHidden; ++i) change += layer.router_delta[e * kHidden + i] * hidden[i];
      touched = true;
    }
    if (!layer.token_table.empty() && token >= 0) {
      change += layer.token_table_scales[token] * layer.token_table[token * kExperts + e];
      touched = true;
    }
    out[e] = z[e] + weight * change;
  }
  return touched ? std::optional(out) : std::nullopt;
}

double ModelRamp(const GateView& gate, size_t j, const std::vector<int32_t>& text) {
  const GateGroup& group = gate.groups[j];
  std::map<uint64_t, double> evidence;
  for (size_t i = 0; i < gate.pairs.size(); ++i) {
    if (!gate.pair_groups.empty() && (gate.pair_groups[i] >> j) % 2 == 0) continue;
    evidence[gate.pairs[i]] = gate.is_common[i] ? gate.common : 1.0;
  }
  const size_t count = std::min<size_t>(text.size(), gate.window);
  double sum = 0;
  for (size_t t = text.size() - count; t < text.size(); ++t) {
    if (t == 0) {
      sum += group.prior;  // the first token has none before it
      continue;
    }
    const auto found = evidence.find(uint64_t{static_cast<uint32_t>(text[t - 1])} << 32 | text[t]);
    sum += found == evidence.end() ? 0 : found->second;
  }
  const double mean = (gate.n0 * group.prior + sum) / (gate.n0 + count);
  return std::clamp((mean - group.lo) / (group.hi - group.lo), 0.0, 1.0);
}

double ModelGate(const GateView& gate, const std::vector<int32_t>& text) {
  if (!gate.enabled) return 1;
  double most = 0;
  for (size_t j = 0; j < gate.groups.size(); ++j) most = std::max(most, ModelRamp(gate, j, text));
  return most;
}

struct ModelSlot {
  Binding binding;
  std::vector<int32_t> text;  // by position
};

class RandomOperations : public ::testing::TestWithParam<uint32_t> {
 protected:
  RandomOperations() : random_(GetParam()) {
    memories_ = {
        nullptr,
        RandomTables(GetParam() + 1,
                     {.confidence = ConfidenceRule::kMaxSimilarity, .trained_parts = true, .gate_groups = 3}),
        RandomTables(GetParam() + 2, {.kind = ValueKind::kLogits, .k = 50}),
        RandomTables(GetParam() + 3,
                     {.kind = ValueKind::kAssignments, .confidence = ConfidenceRule::kAggregate, .gate = false}),
        RandomTables(GetParam() + 4, {.confidence = ConfidenceRule::kMeanKernel, .layers = {1}, .rows = 0})};
  }

  void AddSlot() {
    Binding binding{.tables = memories_[random_.Below(memories_.size())],
                    .session = random_.Chance(40) ? RandomSession(random_.Below(1000), 3) : nullptr,
                    .strength = std::array{0.0f, 0.5f, 1.0f}[random_.Below(3)],
                    .shadow = random_.Chance(15)};
    const uint32_t id = router_.AddSlot(binding);
    ASSERT_TRUE(slots_.emplace(id, ModelSlot{binding, {}}).second) << "id " << id << " was given out twice";
  }

  uint32_t AnySlot() { return std::next(slots_.begin(), random_.Below(slots_.size()))->first; }

  struct StepRow {
    uint32_t slot = 0;
    uint32_t position = 0;
    int32_t token = 0;
  };

  // A few sequences go on or rewind by some positions, their rows interleaved, padding rows in between.
  std::vector<StepRow> PickRows() {
    std::map<uint32_t, uint32_t> next;
    std::vector<StepRow> rows;
    for (uint32_t i = 0, count = random_.Below(9); i < count; ++i) {
      const auto token = static_cast<int32_t>(random_.Below(kVocabulary));
      if (slots_.empty() || random_.Chance(15)) {
        rows.push_back({0, random_.Below(100), token});
        continue;
      }
      const uint32_t id = AnySlot();
      if (!next.contains(id)) {
        auto& text = slots_[id].text;
        if (random_.Chance(20)) text.resize(random_.Below(static_cast<uint32_t>(text.size()) + 1));
        next[id] = static_cast<uint32_t>(text.size());
      }
      rows.push_back({id, next[id]++, token});
    }
    return rows;
  }

  void RunRandomStep() {
    const std::vector<StepRow> rows = PickRows();
    std::vector<uint32_t> slots, positions;
    std::vector<int32_t> tokens;
    for (const StepRow& row : rows) {
      slots.push_back(row.slot);
      positions.push_back(row.position);
      tokens.push_back(row.token);
    }
    auto step = router_.BeginStep(slots, positions, tokens);
    ASSERT_TRUE(step.ok()) << step.error().message;
    std::vector<double> gates;
    for (const StepRow& row : rows) gates.push_back(EnterText(row));
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      Row hidden = random_.Floats(rows.size() * kHidden, -1, 1);
      Row logits = random_.Floats(rows.size() * kExperts, -4, 4);
      if (!rows.empty() && random_.Chance(10)) hidden[random_.Below(hidden.size())] = kNan;
      if (!rows.empty() && random_.Chance(10)) logits[random_.Below(logits.size())] = kNan;
      const Row before = logits;
      const Status status = router_.Route(step.value(), layer, hidden, logits);
      ASSERT_TRUE(status.ok()) << status.error().message;
      for (size_t i = 0; i < rows.size(); ++i) {
        SCOPED_TRACE("layer " + std::to_string(layer) + ", row " + std::to_string(i));
        const auto row_of = [&](const Row& matrix, size_t width) {
          return Row(matrix.begin() + i * width, matrix.begin() + (i + 1) * width);
        };
        Expect(rows[i], layer, gates[i], row_of(hidden, kHidden), row_of(before, kExperts), row_of(logits, kExperts));
        EXPECT_NEAR(step.value().gate[i], gates[i], 1e-5);
      }
    }
  }

  double EnterText(const StepRow& row) {
    if (row.slot == 0) return 0;
    ModelSlot& slot = slots_[row.slot];
    slot.text.push_back(row.token);
    return slot.binding.tables == nullptr ? 0 : ModelGate(slot.binding.tables->gate, slot.text);
  }

  void Expect(const StepRow& row, int32_t layer, double gate, const Row& hidden, const Row& before, const Row& after) {
    const Binding binding = row.slot == 0 ? Binding{} : slots_[row.slot].binding;
    const LayerView* view = nullptr;
    if (binding.tables != nullptr) {
      for (const LayerView& candidate : binding.tables->layers) view = candidate.layer == layer ? &candidate : view;
    }
    const bool session = binding.session != nullptr && layer < static_cast<int32_t>(binding.session->by_layer.size());
    if (view != nullptr || session) ++expected_.rows;
    if (view != nullptr && gate == 0) ++expected_.gate_shut;
    const bool finite = Finite(hidden) && Finite(before);
    if (!finite && (view != nullptr || session)) ++expected_.non_finite;

    std::optional<std::vector<double>> want;
    if (finite && view != nullptr) {
      want = ModelBlend(*binding.tables, *view, hidden, row.token, gate * binding.strength, before);
      expected_.touched += want.has_value();
    }
    if (finite && session) {
      if (!want) want = std::vector<double>(before.begin(), before.end());
      for (uint32_t e = 0; e < kExperts; ++e) (*want)[e] += binding.session->by_layer[layer][e];
    }
    if (!want || binding.shadow) {
      EXPECT_TRUE(SameBits(before, after));
      return;
    }
    ++expected_.written;
    for (uint32_t e = 0; e < kExperts; ++e) EXPECT_NEAR(after[e], (*want)[e], 1e-4);
  }

  Random random_;
  Router router_;
  std::vector<std::shared_ptr<const RoutingTables>> memories_;
  std::map<uint32_t, ModelSlot> slots_;
  RouterCounters expected_;
};

INSTANTIATE_TEST_SUITE_P(Seeds, RandomOperations, ::testing::Values(101, 202, 303));

TEST_P(RandomOperations, AgreeWithTheModel) {
  SCOPED_TRACE("seed " + std::to_string(GetParam()));
  for (int operation = 0; operation < 400 && !HasFailure(); ++operation) {
    SCOPED_TRACE("operation " + std::to_string(operation));
    const uint32_t choice = random_.Below(100);
    if (choice < 12) {
      AddSlot();
    } else if (choice < 18 && !slots_.empty()) {
      const uint32_t id = AnySlot();
      router_.ReleaseSlot(id);
      slots_.erase(id);
    } else if (choice < 24 && !slots_.empty()) {
      const uint32_t id = AnySlot();
      slots_[id].binding.strength = random_.Uniform(0, 1);
      router_.SetStrength(id, slots_[id].binding.strength);
    } else {
      RunRandomStep();
    }
    const RouterCounters counters = router_.counters();
    EXPECT_EQ(counters.rows, expected_.rows);
    EXPECT_EQ(counters.touched, expected_.touched);
    EXPECT_EQ(counters.written, expected_.written);
    EXPECT_EQ(counters.gate_shut, expected_.gate_shut);
    EXPECT_EQ(counters.non_finite, expected_.non_finite);
  }
  EXPECT_GT(expected_.written, 500u) << "the operations no longer reach the blend";
  EXPECT_GT(expected_.gate_shut, 50u);
}

}  // namespace
}  // namespace pointsman
