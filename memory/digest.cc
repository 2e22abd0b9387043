// Digest: see memory.h. Order-free: every row is hashed by itself and the sorted row hashes are hashed, so neither the
// order of rows nor of documents matters. Path-free: of a reference only the token's position counts, because documents
// are known by their names alone here.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "memory/hash.h"
#include "memory/memory.h"

namespace pointsman {
namespace {

template <typename T>
void HashArray(Xxh3Stream* stream, std::span<const T> values) {
  stream->UpdateValue(uint64_t{values.size()});
  stream->Update(std::as_bytes(values));
}

// What belongs to one row, packed into one buffer and hashed.
class RowHasher {
 public:
  template <typename T>
  void Add(std::span<const T> values) {
    const std::span<const std::byte> bytes = std::as_bytes(values);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void EndRow() {
    hashes_.push_back(Xxh3(buffer_));
    buffer_.clear();
  }
  void Finish(Xxh3Stream* stream) {
    std::sort(hashes_.begin(), hashes_.end());
    HashArray<uint64_t>(stream, hashes_);
  }

 private:
  std::vector<std::byte> buffer_;
  std::vector<uint64_t> hashes_;
};

void HashTransform(Xxh3Stream* stream, const KeyIndexView& keys) {
  stream->UpdateValue(keys.hidden);
  stream->UpdateValue(keys.dim);
  HashArray(stream, keys.mean);
  HashArray(stream, keys.projection);
}

void AddKey(RowHasher* rows, const KeyIndexView& keys, uint64_t row) {
  rows->Add(keys.codes.subspan(row * keys.dim, keys.dim));
  rows->Add(keys.code_scales.subspan(row, 1));
}

void HashLayer(Xxh3Stream* stream, const LayerView& layer) {
  stream->UpdateValue(layer.layer);
  stream->UpdateValue(layer.experts);
  stream->UpdateValue(layer.calibration.k);
  stream->UpdateValue(layer.calibration.tau);
  stream->UpdateValue(layer.calibration.tau2);
  stream->UpdateValue(layer.calibration.scale);
  stream->UpdateValue(static_cast<uint8_t>(layer.calibration.confidence));
  HashTransform(stream, layer.keys);
  HashArray(stream, layer.router_delta);
  HashArray(stream, layer.token_table);
  HashArray(stream, layer.token_table_scales);
  if (!layer.token_ids.empty()) HashArray(stream, layer.token_ids);  // a whole table has the digest that it had before
  const uint64_t references = layer.keys.rows == 0 ? 0 : layer.references.size() / layer.keys.rows;
  RowHasher rows;
  for (uint64_t row = 0; row < layer.keys.rows; ++row) {
    AddKey(&rows, layer.keys, row);
    rows.Add(layer.values.subspan(row * layer.experts, layer.experts));
    rows.Add(layer.value_scales.subspan(row, 1));
    for (const EntryRef& reference : layer.references.subspan(row * references, references)) {
      const uint32_t parts[] = {reference.document == kNoDocument, reference.position};
      rows.Add(std::span<const uint32_t>(parts));
    }
    rows.EndRow();
  }
  rows.Finish(stream);
}

// A gate of one group has the digest that it had before there were any.
void HashGate(Xxh3Stream* stream, const GateView& gate) {
  stream->UpdateValue(static_cast<uint8_t>(gate.enabled));
  if (!gate.enabled) return;
  const GateGroup& first = gate.groups.front();
  for (float value : {gate.n0, first.prior, gate.common, first.lo, first.hi}) stream->UpdateValue(value);
  stream->UpdateValue(gate.window);
  for (uint64_t pair : gate.pairs) stream->UpdateValue(pair);
  for (uint8_t mark : gate.is_common) stream->UpdateValue(mark);
  for (const GateGroup& group : std::span(gate.groups).subspan(1)) {
    for (float value : {group.prior, group.lo, group.hi}) stream->UpdateValue(value);
  }
  for (uint16_t groups : gate.pair_groups) stream->UpdateValue(groups);
}

// A memory without an output part has the digest that it had before there were any.
void HashOutput(Xxh3Stream* stream, const OutputView& output) {
  if (!output.enabled) return;
  stream->UpdateValue(output.vocabulary);
  stream->UpdateValue(output.k);
  for (float value : {output.tau, output.lambda, output.tau2}) stream->UpdateValue(value);
  HashTransform(stream, output.keys);
  RowHasher rows;
  for (uint64_t row = 0; row < output.keys.rows; ++row) {
    AddKey(&rows, output.keys, row);
    rows.Add(output.next_tokens.subspan(row, 1));
    if (!output.references.empty()) rows.Add(std::span<const uint32_t>(&output.references[row].position, 1));
    rows.EndRow();
  }
  rows.Finish(stream);
}

}  // namespace

std::string Digest(const RoutingTables& tables) {
  Xxh3Stream stream;
  stream.UpdateValue(static_cast<uint8_t>(tables.kind));
  stream.UpdateValue(static_cast<uint8_t>(tables.value_kind));
  stream.UpdateValue(tables.top_k);
  stream.UpdateValue(uint64_t{tables.layers.size()});
  for (const LayerView& layer : tables.layers) HashLayer(&stream, layer);
  HashGate(&stream, tables.gate);
  HashOutput(&stream, tables.output);
  return stream.Hex();
}

}  // namespace pointsman
