#include "memory/routing_tables_owned.h"

#include <algorithm>
#include <span>
#include <utility>

#include "memory/layer_index.h"
#include "memory/table_fields.h"

namespace pointsman {
namespace {

struct Viewed {
  template <typename T>
  std::span<const T> Whole(const std::vector<T>& values) const {
    return values;
  }
  template <typename T>
  std::span<const T> Rows(const std::vector<T>& values, uint64_t) const {
    return values;
  }
};

void Quantize(const std::vector<float>& rows, uint32_t dim, std::vector<int8_t>* codes, std::vector<float>* scales) {
  codes->resize(rows.size());
  scales->resize(dim == 0 ? 0 : rows.size() / dim);
  QuantizeRows(rows, dim, *codes, *scales);
}

}  // namespace

KeyIndexView ViewOf(const OwnedKeyIndex& keys) {
  KeyIndexView view = KeysOf<KeyIndexView>(keys, Viewed());
  view.rows = keys.code_scales.size();
  return view;
}

GateView ViewOf(const OwnedGate& gate) { return GateOf<GateView>(gate, Viewed()); }

OutputView ViewOf(const OwnedOutput& output) {
  OutputView view = OutputOf<OutputView>(output, Viewed());
  view.keys.rows = output.keys.code_scales.size();
  return view;
}

void OwnedKeyIndex::SetKeys(const std::vector<float>& keys) { Quantize(keys, dim, &codes, &code_scales); }

void OwnedLayer::SetValues(const std::vector<float>& rows) { Quantize(rows, experts, &values, &value_scales); }

void OwnedLayer::SetTokenTable(const std::vector<float>& rows) {
  Quantize(rows, experts, &token_table, &token_table_scales);
  token_ids.clear();
  const auto row = [&](size_t token) { return std::span(token_table).subspan(token * experts, experts); };
  const size_t tokens = token_table_scales.size();
  for (size_t token = 0; token < tokens; ++token) {
    if (std::ranges::any_of(row(token), [](int8_t code) { return code != 0; })) {
      token_ids.push_back(static_cast<uint32_t>(token));
    }
  }
  const size_t row_bytes = experts + sizeof(float);
  if (token_ids.empty() || token_ids.size() * (row_bytes + sizeof(uint32_t)) >= tokens * row_bytes) {
    token_ids.clear();
    return;
  }
  for (size_t i = 0; i < token_ids.size(); ++i) {  // i <= token_ids[i]: to the front, over what is not needed any more
    std::ranges::copy(row(token_ids[i]), row(i).begin());
    token_table_scales[i] = token_table_scales[token_ids[i]];
  }
  token_table.resize(token_ids.size() * experts);
  token_table_scales.resize(token_ids.size());
}

std::shared_ptr<const RoutingTables> MakeTables(OwnedTables owned) {
  auto storage = std::make_shared<const OwnedTables>(std::move(owned));
  auto tables = std::make_shared<RoutingTables>();
  SetCommonFields(*storage, *tables);
  for (const OwnedLayer& layer : storage->layers) {
    LayerView view = LayerOf<LayerView>(layer, Viewed());
    view.keys.rows = layer.keys.code_scales.size();
    tables->layers.push_back(view);
  }
  tables->gate = ViewOf(storage->gate);
  tables->output = ViewOf(storage->output);
  tables->storage = std::move(storage);
  return tables;
}

}  // namespace pointsman
