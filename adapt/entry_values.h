// Entries (findings F1): one key a token and layer, with a value trained from zero through the model's loss while each
// token sees entries of other near-duplicate clusters only (leave one cluster out).
//   a = softmax_j(s_j / tau),  g = exp((mean_j s_j - 1) / tau2),  change = scale * g * sum_j a_j v_j + W h + U[token]
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <vector>

#include "adapt/capture.h"
#include "adapt/linear_part.h"
#include "adapt/routing_module.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"
#include "models/config.h"

namespace pointsman {

struct EntryOptions {
  int32_t neighbours = 32;  // k
  double tau = 0.5, tau2 = 0.5, scale = 1.0;
  double value_rate = 0.1, scalar_rate = 0.02;  // findings F1
  LinearPartOptions linear{0, 3e-3, 0.03};
  int rekeyings = 0;  // times that keys are captured again with the memory active, and training goes on; see 005
  int threads = 1;
};

class EntryValues : public RoutingModule {
 public:
  // Searches each reference token's neighbours among the other groups' entries. `groups` [N] gives each row's cluster.
  // Errors (kInvalidArgument): fewer than two groups (nothing to leave out).
  static Result<std::unique_ptr<EntryValues>> Create(const MoeConfig& config, std::span<const LayerKeys> keys,
                                                     std::span<const at::Tensor> hidden,
                                                     std::span<const uint32_t> groups, const EntryOptions& options);
  // Other keys for the same rows, their values kept: those of hidden states that the trained memory itself has moved.
  void Rekey(std::span<const LayerKeys> keys, std::span<const at::Tensor> hidden, std::span<const uint32_t> groups);

  std::vector<Parameter> Parameters() const override;
  at::Tensor Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const override;

  // Rows [N, k] that training sees for each row: entries of other groups, best first.
  const at::Tensor& training_neighbours(int layer) const { return layers_[layer].neighbours; }

  // Layers ready for MakeTables, in row order; refs [N].
  std::vector<OwnedLayer> Export(std::span<const EntryRef> refs) const;

 private:
  struct Layer {
    OwnedKeyIndex keys;
    at::Tensor values;  // [N, E]
    at::Tensor log_tau, log_tau2, log_scale;
    at::Tensor similarities, neighbours;  // [N, k] fp32 and int64: of other groups
  };
  EntryValues(const MoeConfig& config, const EntryOptions& options);
  void FindNeighbours(Layer& layer, const at::Tensor& hidden, std::span<const uint32_t> groups) const;

  MoeConfig config_;
  EntryOptions options_;
  LinearPart linear_;
  std::vector<Layer> layers_;
};

// An index over unit keys [N, D] with the transform that made them.
OwnedKeyIndex IndexOf(const LayerKeys& keys, uint32_t hidden);

}  // namespace pointsman
