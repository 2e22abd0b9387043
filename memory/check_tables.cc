// CheckTables: see routing_tables_owned.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <string_view>

#include "memory/gate_groups.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

constexpr int32_t kMaxNeighbours = 1024;
constexpr uint32_t kMaxWidth = 1 << 20;  // of hidden, dim and experts: keeps products far from overflow
constexpr int32_t kMaxLayer = 1 << 20;
constexpr uint32_t kMaxVocabulary = 1 << 24;
constexpr float kMaxLambda = 0.99f;  // 1 would leave nothing of the model's own probabilities: log 0

// Collects the first problem; later checks of the same part are skipped once one failed.
class Checker {
 public:
  explicit Checker(std::string part) : part_(std::move(part)) {}
  void Require(bool condition, std::string_view problem) {
    if (!condition && problem_.empty()) problem_ = fmt::format("{}: {}", part_, problem);
  }
  bool ok() const { return problem_.empty(); }
  Status status() const {
    if (ok()) return {};
    return Error{ErrorCode::kCorrupt, problem_};
  }

 private:
  std::string part_;
  std::string problem_;
};

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

bool AreScales(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x) && x >= 0; });
}

// size == rows * columns, without overflow.
bool HasShape(size_t size, uint64_t rows, uint64_t columns) {
  uint64_t product = 0;
  return !__builtin_mul_overflow(rows, columns, &product) && product == size;
}

void CheckKeys(const KeyIndexView& keys, Checker* check) {
  check->Require(keys.hidden >= 1 && keys.hidden <= kMaxWidth, "the hidden size is out of range");
  check->Require(keys.dim >= 1 && keys.dim <= kMaxWidth, "the key dimension is out of range");
  check->Require(keys.rows < std::numeric_limits<uint32_t>::max(), "too many rows");
  if (!check->ok()) return;
  check->Require(keys.mean.empty() || keys.mean.size() == keys.hidden, "the mean does not fit the hidden size");
  check->Require(
      keys.projection.empty() ? keys.dim == keys.hidden : HasShape(keys.projection.size(), keys.dim, keys.hidden),
      "the projection is not [dim, hidden]");
  check->Require(HasShape(keys.codes.size(), keys.rows, keys.dim), "the key codes are not [rows, dim]");
  check->Require(keys.code_scales.size() == keys.rows, "the key scales are not one a row");
  check->Require(AllFinite(keys.mean), "the mean is not finite");
  check->Require(AllFinite(keys.projection), "the projection is not finite");
  check->Require(AreScales(keys.code_scales), "a key scale is negative or not finite");
}

void CheckCalibration(const LayerCalibration& calibration, Checker* check) {
  check->Require(calibration.k >= 1 && calibration.k <= kMaxNeighbours,
                 fmt::format("k is {}, not in 1..{}", calibration.k, kMaxNeighbours));
  check->Require(std::isfinite(calibration.tau) && calibration.tau > 0, "tau is not a positive number");
  check->Require(std::isfinite(calibration.tau2) && calibration.tau2 > 0, "tau2 is not a positive number");
  check->Require(std::isfinite(calibration.scale), "the scale is not finite");
  check->Require(calibration.confidence <= ConfidenceRule::kAggregate, "unknown confidence rule");
}

void CheckReferences(std::span<const EntryRef> references, uint64_t rows, uint64_t per_row, size_t documents,
                     Checker* check) {
  check->Require(references.empty() || HasShape(references.size(), rows, per_row),
                 fmt::format("the references are not {} a row", per_row));
  check->Require(std::all_of(references.begin(), references.end(),
                             [&](const EntryRef& r) { return r.document < documents || r.document == kNoDocument; }),
                 "a reference names no document");
}

Status CheckLayer(const LayerView& layer, const RoutingTables& tables) {
  Checker check(fmt::format("layer {}", layer.layer));
  check.Require(layer.layer >= 0 && layer.layer <= kMaxLayer, "the layer number is out of range");
  check.Require(layer.experts >= 1 && layer.experts <= kMaxWidth, "the number of experts is out of range");
  check.Require(tables.top_k <= layer.experts, "top-k is larger than the number of experts");
  CheckKeys(layer.keys, &check);
  if (!check.ok()) return check.status();
  const uint64_t rows = layer.keys.rows, token_rows = layer.token_table_scales.size();
  check.Require(HasShape(layer.values.size(), rows, layer.experts), "the values are not [rows, experts]");
  check.Require(layer.value_scales.size() == rows, "the value scales are not one a row");
  check.Require(AreScales(layer.value_scales), "a value scale is negative or not finite");
  check.Require(layer.router_delta.empty() || HasShape(layer.router_delta.size(), layer.experts, layer.keys.hidden),
                "the router delta is not [experts, hidden]");
  check.Require(AllFinite(layer.router_delta), "the router delta is not finite");
  check.Require(HasShape(layer.token_table.size(), token_rows, layer.experts),
                "the token table is not [tokens, experts]");
  check.Require(layer.token_ids.empty() || layer.token_ids.size() == token_rows,
                "the tokens of the token table are not one a row");
  check.Require(std::ranges::adjacent_find(layer.token_ids, std::greater_equal<>()) == layer.token_ids.end(),
                "the tokens of the token table do not ascend");
  check.Require(AreScales(layer.token_table_scales), "a scale of the token table is negative or not finite");
  const uint64_t per_row = tables.kind == MemoryKind::kPrototypes ? kPrototypeReferences : 1;
  CheckReferences(layer.references, rows, per_row, tables.documents.size(), &check);
  CheckCalibration(layer.calibration, &check);
  return check.status();
}

void CheckGateGroups(const GateView& gate, Checker* check) {
  const size_t count = gate.groups.size();
  check->Require(count >= 1 && count <= kMostGateGroups, "there is no group, or too many");
  if (!check->ok() || count == 1) {
    check->Require(gate.pair_groups.empty(), "pairs are marked with groups, and there is one");
    return;
  }
  std::set<std::string_view> names;
  for (const GateGroup& group : gate.groups) names.insert(group.name);
  const bool named = std::ranges::all_of(gate.groups, IsGroupName, &GateGroup::name);
  check->Require(names.size() == count && named, "a group has no name, or another's");
  check->Require(gate.pair_groups.size() == gate.pairs.size(), "the marks of groups are not one a pair");
  const uint32_t above = uint32_t{1} << count;
  check->Require(std::ranges::all_of(gate.pair_groups, [&](uint16_t mark) { return mark != 0 && mark < above; }),
                 "a pair belongs to no group, or to one that is not there");
}

Status CheckGate(const GateView& gate) {
  Checker check("gate");
  if (gate.enabled) {
    check.Require(std::isfinite(gate.n0) && gate.n0 >= 0, "n0 is negative or not finite");
    for (const GateGroup& group : gate.groups) {
      check.Require(std::isfinite(group.prior), "the prior is not finite");
      check.Require(std::isfinite(group.lo) && std::isfinite(group.hi) && group.lo < group.hi, "lo is not below hi");
    }
    check.Require(gate.common >= 0 && gate.common <= 1, "the weight of common pairs is not in 0..1");
    check.Require(gate.window >= 1, "the window is empty");
    check.Require(!gate.pairs.empty(), "there are no token pairs");
  }
  CheckGateGroups(gate, &check);
  check.Require(gate.is_common.size() == gate.pairs.size(), "the marks of common pairs are not one a pair");
  check.Require(std::adjacent_find(gate.pairs.begin(), gate.pairs.end(), std::greater_equal<>()) == gate.pairs.end(),
                "the token pairs do not ascend");
  return check.status();
}

Status CheckOutput(const OutputView& output, size_t documents) {
  if (!output.enabled) return {};
  Checker check("output memory");
  check.Require(output.k >= 1 && output.k <= kMaxNeighbours,
                fmt::format("k is {}, not in 1..{}", output.k, kMaxNeighbours));
  check.Require(std::isfinite(output.tau) && output.tau > 0, "tau is not a positive number");
  check.Require(output.lambda >= 0 && output.lambda <= kMaxLambda,
                fmt::format("lambda is {}, not in 0..{}", output.lambda, kMaxLambda));
  check.Require(std::isfinite(output.tau2) && output.tau2 > 0, "tau2 is not a positive number");
  check.Require(output.vocabulary >= 1 && output.vocabulary <= kMaxVocabulary, "the vocabulary is out of range");
  check.Require(output.keys.rows >= 1, "there are no keys");
  CheckKeys(output.keys, &check);
  if (!check.ok()) return check.status();
  check.Require(output.next_tokens.size() == output.keys.rows, "the next tokens are not one a row");
  check.Require(std::all_of(output.next_tokens.begin(), output.next_tokens.end(),
                            [&](int32_t t) { return t >= 0 && static_cast<uint32_t>(t) < output.vocabulary; }),
                "a next token is outside the vocabulary");
  CheckReferences(output.references, output.keys.rows, 1, documents, &check);
  return check.status();
}

}  // namespace

Status CheckTables(const RoutingTables& tables) {
  Checker check("memory");
  check.Require(tables.kind <= MemoryKind::kPrototypes && tables.value_kind <= ValueKind::kAssignments,
                "unknown kind of memory or of values");
  check.Require(tables.value_kind != ValueKind::kAssignments || tables.top_k >= 1, "assignments need a top-k");
  check.Require(tables.documents.size() < kNoDocument, "too many documents");
  int32_t previous = -1;
  for (const LayerView& layer : tables.layers) {
    check.Require(layer.layer > previous, fmt::format("layer {} does not follow layer {}", layer.layer, previous));
    if (!check.ok()) break;
    POINTSMAN_CHECK_OK(CheckLayer(layer, tables));
    previous = layer.layer;
  }
  POINTSMAN_CHECK_OK(check.status());
  POINTSMAN_CHECK_OK(CheckGate(tables.gate));
  return CheckOutput(tables.output, tables.documents.size());
}

}  // namespace pointsman
