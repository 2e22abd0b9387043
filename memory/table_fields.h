// The fields of routing tables, named once for both ways: from vectors to views (routing_tables_owned.cc) and from
// views to vectors (copy_tables.cc). `arrays` says what becomes of an array: Rows() of one that has a row for each key,
// Whole() of any other.
#pragma once

#include "memory/routing_tables.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {

template <typename To, typename From, typename Arrays>
To KeysOf(const From& keys, const Arrays& arrays) {
  To to;
  to.hidden = keys.hidden;
  to.dim = keys.dim;
  to.mean = arrays.Whole(keys.mean);
  to.projection = arrays.Whole(keys.projection);
  to.codes = arrays.Rows(keys.codes, keys.dim);
  to.code_scales = arrays.Rows(keys.code_scales, 1);
  return to;
}

template <typename To, typename From, typename Arrays>
To LayerOf(const From& layer, const Arrays& arrays) {
  To to;
  to.layer = layer.layer;
  to.experts = layer.experts;
  to.keys = KeysOf<decltype(to.keys)>(layer.keys, arrays);
  to.values = arrays.Rows(layer.values, layer.experts);
  to.value_scales = arrays.Rows(layer.value_scales, 1);
  const size_t rows = layer.keys.code_scales.size();
  to.references = arrays.Rows(layer.references, rows == 0 ? 0 : layer.references.size() / rows);
  to.calibration = layer.calibration;
  to.router_delta = arrays.Whole(layer.router_delta);
  to.token_table = arrays.Whole(layer.token_table);
  to.token_table_scales = arrays.Whole(layer.token_table_scales);
  to.token_ids = arrays.Whole(layer.token_ids);
  return to;
}

template <typename To, typename From, typename Arrays>
To GateOf(const From& gate, const Arrays& arrays) {
  To to;
  to.enabled = gate.enabled;
  to.n0 = gate.n0;
  to.common = gate.common;
  to.window = gate.window;
  to.groups = gate.groups;
  to.pairs = arrays.Whole(gate.pairs);
  to.is_common = arrays.Whole(gate.is_common);
  to.pair_groups = arrays.Whole(gate.pair_groups);
  return to;
}

template <typename To, typename From, typename Arrays>
To OutputOf(const From& output, const Arrays& arrays) {
  To to;
  to.enabled = output.enabled;
  to.vocabulary = output.vocabulary;
  to.k = output.k;
  to.tau = output.tau;
  to.lambda = output.lambda;
  to.tau2 = output.tau2;
  to.keys = KeysOf<decltype(to.keys)>(output.keys, arrays);
  to.next_tokens = arrays.Rows(output.next_tokens, 1);
  to.references = arrays.Rows(output.references, 1);
  return to;
}

// What tables say of all their parts.
template <typename To, typename From>
void SetCommonFields(const From& from, To& to) {
  to.kind = from.kind;
  to.value_kind = from.value_kind;
  to.top_k = from.top_k;
  to.documents = from.documents;
}

}  // namespace pointsman
