#include "indexer/evaluation/controls.h"

#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "adapt/tensors.h"
#include "indexer/evaluation/row_gate.h"
#include "memory/copy_tables.h"
#include "memory/layer_index.h"
#include "router/blend.h"

namespace pointsman {
namespace {

// SplitMix64: one well-mixed number for each (seed, index).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

void DropLinearParts(OwnedTables& tables) {
  tables.output = {};
  for (OwnedLayer& layer : tables.layers) {
    layer.router_delta.clear();
    layer.token_table.clear();
    layer.token_table_scales.clear();
    layer.token_ids.clear();
  }
}

class RandomNeighbourHook : public RoutingHook {
 public:
  RandomNeighbourHook(std::shared_ptr<const RoutingTables> tables, uint64_t seed, const Batch& batch)
      : tables_(std::move(tables)), seed_(seed), batch_(batch) {}
  void BeginStep(const StepInfo& step) override {
    if (tables_->gate.enabled) gate_ = GateOfRows(tables_->gate, step);
    layer_numbers_ = step.layer_numbers;
  }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const at::Tensor queries = hidden.contiguous();
    const int32_t number = NumberOfLayer(layer_numbers_, layer);
    for (const LayerView& view : tables_->layers) {
      if (view.layer == number) Apply(view, queries, logits);
    }
    return logits;
  }

 private:
  void Apply(const LayerView& view, const at::Tensor& queries, const at::Tensor& logits) {
    const int64_t rows = queries.size(0), k = view.calibration.k;
    std::vector<Neighbour> found(rows * k);
    SearchExact(view.keys, SpanOf(queries), static_cast<uint32_t>(k), found);
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<Neighbour> mine(found.data() + r * k, k);
      const uint64_t base = Mix(seed_ ^ Mix(batch_.members[r / batch_.ids.size(1)])) + view.layer * 1000003ull +
                            static_cast<uint64_t>(r % batch_.ids.size(1)) * 8191ull;
      for (int64_t i = 0; i < k; ++i) mine[i].row = static_cast<uint32_t>(Mix(base + i * 131ull) % view.keys.rows);
      BlendInput input;
      input.neighbours = mine;
      input.gate = gate_.empty() ? 1.0f : gate_[r];
      const std::span<float> row(logits.data_ptr<float>() + r * view.experts, view.experts);
      blender_.Blend(view, tables_->value_kind, tables_->top_k, input, row);
    }
  }

  std::shared_ptr<const RoutingTables> tables_;
  uint64_t seed_;
  const Batch& batch_;
  std::vector<float> gate_;         // [rows] of this batch
  std::vector<int> layer_numbers_;  // of this step: StepInfo::layer_numbers
  Blender blender_;
};

}  // namespace

std::shared_ptr<const RoutingTables> ShuffledValues(const RoutingTables& tables, uint64_t seed) {
  OwnedTables owned = CopyTables(tables);
  DropLinearParts(owned);
  for (OwnedLayer& layer : owned.layers) {
    const size_t rows = layer.value_scales.size(), experts = layer.experts;
    std::vector<size_t> order(rows);
    std::iota(order.begin(), order.end(), size_t{0});
    std::mt19937_64 random(Mix(seed + layer.layer));
    for (size_t i = rows; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    const OwnedLayer from = layer;
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(from.values.begin() + order[r] * experts, experts, layer.values.begin() + r * experts);
      layer.value_scales[r] = from.value_scales[order[r]];
    }
  }
  return MakeTables(std::move(owned));
}

HookFactory RandomNeighbours(std::shared_ptr<const RoutingTables> tables, uint64_t seed) {
  OwnedTables owned = CopyTables(*tables);
  DropLinearParts(owned);
  std::shared_ptr<const RoutingTables> retrieved = MakeTables(std::move(owned));
  return [retrieved, seed](const Batch& batch, std::vector<uint32_t>*) {
    return std::make_unique<RandomNeighbourHook>(retrieved, seed, batch);
  };
}

}  // namespace pointsman
