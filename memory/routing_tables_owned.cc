#include "memory/routing_tables_owned.h"

#include <utility>

#include "memory/layer_index.h"

namespace pointsman {
namespace {

void Quantize(const std::vector<float>& rows, uint32_t dim, std::vector<int8_t>* codes, std::vector<float>* scales) {
  codes->resize(rows.size());
  scales->resize(dim == 0 ? 0 : rows.size() / dim);
  QuantizeRows(rows, dim, *codes, *scales);
}

}  // namespace

KeyIndexView ViewOf(const OwnedKeyIndex& keys) {
  return {.hidden = keys.hidden,
          .dim = keys.dim,
          .rows = keys.code_scales.size(),
          .mean = keys.mean,
          .projection = keys.projection,
          .codes = keys.codes,
          .code_scales = keys.code_scales};
}

GateView ViewOf(const OwnedGate& gate) {
  return {.enabled = gate.enabled,
          .n0 = gate.n0,
          .prior = gate.prior,
          .common = gate.common,
          .lo = gate.lo,
          .hi = gate.hi,
          .window = gate.window,
          .pairs = gate.pairs,
          .is_common = gate.is_common};
}

OutputView ViewOf(const OwnedOutput& output) {
  return {.enabled = output.enabled,
          .vocabulary = output.vocabulary,
          .k = output.k,
          .tau = output.tau,
          .lambda = output.lambda,
          .tau2 = output.tau2,
          .keys = ViewOf(output.keys),
          .next_tokens = output.next_tokens,
          .references = output.references};
}

void OwnedKeyIndex::SetKeys(const std::vector<float>& keys) { Quantize(keys, dim, &codes, &code_scales); }

void OwnedLayer::SetValues(const std::vector<float>& rows) { Quantize(rows, experts, &values, &value_scales); }

void OwnedLayer::SetTokenTable(const std::vector<float>& rows) {
  Quantize(rows, experts, &token_table, &token_table_scales);
}

std::shared_ptr<const RoutingTables> MakeTables(OwnedTables owned) {
  auto storage = std::make_shared<const OwnedTables>(std::move(owned));
  auto tables = std::make_shared<RoutingTables>();
  tables->kind = storage->kind;
  tables->value_kind = storage->value_kind;
  tables->top_k = storage->top_k;
  tables->documents = storage->documents;
  for (const OwnedLayer& layer : storage->layers) {
    tables->layers.push_back({.layer = layer.layer,
                              .experts = layer.experts,
                              .keys = ViewOf(layer.keys),
                              .values = layer.values,
                              .value_scales = layer.value_scales,
                              .references = layer.references,
                              .calibration = layer.calibration,
                              .router_delta = layer.router_delta,
                              .token_table = layer.token_table,
                              .token_table_scales = layer.token_table_scales});
  }
  tables->gate = ViewOf(storage->gate);
  tables->output = ViewOf(storage->output);
  tables->storage = std::move(storage);
  return tables;
}

}  // namespace pointsman
