// Rows that join a memory after its build: new entries or new prototypes, with everything that is there already frozen,
// the calibration included. As functions of the router input they are what the router computes from the tables with the
// new rows behind the old ones, without a gate.
//
//   entries      an entry a token; values from zero, trained while each token sees the old entries and those of other
//                near-duplicate clusters among the new documents (leave one cluster out, as in a build)
//   prototypes   `prototypes` a layer, keys from the k-means centroids of the new tokens' keys, values from zero
//
// Threads: Change may be called from several at once; the others from one.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "adapt/routing_module.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {

struct AddedRowsOptions {
  uint32_t prototypes = 1;                   // of each layer; at most the new tokens
  double value_rate = 0.1, key_rate = 0.01;  // Adam, as in a build
  uint64_t seed = 0;                         // of k-means
  int threads = 1;
};

class AddedRows : public RoutingModule {
 public:
  // `hidden[layer]` [N, H] are the frozen model's router inputs at the new tokens, `groups` [N] their clusters.
  // Errors: kUnsupported (values that are not changes of logits), those of k-means.
  static Result<std::unique_ptr<AddedRows>> Create(std::shared_ptr<const RoutingTables> tables,
                                                   std::span<const at::Tensor> hidden, std::span<const uint32_t> groups,
                                                   const AddedRowsOptions& options);

  std::vector<Parameter> Parameters() const override;
  // REQUIRES for entries: `training` (a batch of the new documents).
  at::Tensor Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const override;

  // Entries: values found elsewhere, [layer of the model] = [N, E], instead of trained ones (a single document, whose
  // tokens have no other to learn from).
  void SetEntryValues(std::span<const at::Tensor> by_layer);

  // The new rows of each layer of the tables, in their order, quantised; keys.mean and the trained parts stay empty.
  // `refs` [N]: where the tokens stand. A prototype names its nearest new tokens.
  std::vector<OwnedLayer> Export(std::span<const EntryRef> refs) const;

 private:
  struct Layer {
    const LayerView* view = nullptr;  // of tables_
    at::Tensor mean, projection;      // undefined: none
    at::Tensor keys;                  // [N, D] of the new tokens
    at::Tensor centers;               // [M, D] prototypes: trained
    at::Tensor values;                // [M, E] or [N, E]: trained
    at::Tensor old_keys, old_values;  // prototypes: [R, D], [R, E]
    at::Tensor old_change;            // entries: [N, E], what the old entries say to each new token
    at::Tensor weights, neighbours;   // entries: [N, k], of the new entries; weight 0 where an old one stands
    at::Tensor router_delta;
    at::Tensor token_table;  // [N + 1, E]: the last row, of zeros, is that of tokens without one
    at::Tensor token_ids;    // [N]; undefined: row v is token v's
  };
  AddedRows(std::shared_ptr<const RoutingTables> tables, const AddedRowsOptions& options)
      : tables_(std::move(tables)), options_(options) {}
  Status AddPrototypes(Layer& layer) const;
  void AddEntries(Layer& layer, const at::Tensor& hidden, std::span<const uint32_t> groups) const;
  static at::Tensor TokenRows(const Layer& layer, const Batch& batch);
  at::Tensor PrototypeChange(const Layer& layer, const at::Tensor& hidden) const;

  std::shared_ptr<const RoutingTables> tables_;
  AddedRowsOptions options_;
  std::vector<Layer> layers_;  // in the order of the tables
};

}  // namespace pointsman
