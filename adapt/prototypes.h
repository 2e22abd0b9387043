// Prototypes (findings F2): M trained keys a layer, each with a value, learned end to end through the model's loss.
//   q = normalise(P (h - mu)),  w = softmax_i(cos(q, c_i) / tau),  g = exp((max_i cos(q, c_i) - 1) / tau2)
//   change = g * sum_i w_i v_i + W h + U[token]
// Keys start at the k-means centroids of the reference keys, values at 0, P at the whitening.
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

inline constexpr int kKMeansIterations = 8;  // findings F2

struct PrototypeOptions {
  uint32_t count = 1024;    // M
  int32_t neighbours = 32;  // k at inference: the softmax over the nearest k stands for all M
  double tau = 0.15, tau2 = 0.5;
  double value_rate = 0.1, key_rate = 0.01, projection_rate = 0.001, scalar_rate = 0.02;  // findings F2
  LinearPartOptions linear{0, 3e-3, 0.03};
  double dropout = 0;       // share of prototypes left out of a row's softmax in training; 005 has why it is 0
  int32_t first_layer = 0;  // layers below it have no prototypes (and no part of `linear`)
  uint64_t seed = 0;
};

class Prototypes : public RoutingModule {
 public:
  // `keys[layer]` are the reference keys. Errors: fewer rows than prototypes (k-means).
  static Result<std::unique_ptr<Prototypes>> Create(const MoeConfig& config, std::span<const LayerKeys> keys,
                                                    const PrototypeOptions& options);
  std::vector<Parameter> Parameters() const override;
  at::Tensor Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const override;

  // Layers from first_layer on, ready for MakeTables; `hidden[layer]` [N, H] and `refs` [N] name each prototype's
  // nearest entries.
  std::vector<OwnedLayer> Export(std::span<const at::Tensor> hidden, std::span<const EntryRef> refs) const;

 private:
  struct Layer {
    at::Tensor mean;        // [H], fixed
    at::Tensor projection;  // [D, H]
    at::Tensor centers;     // [M, D], normalised when used
    at::Tensor values;      // [M, E]
    at::Tensor log_tau, log_tau2;
  };
  Prototypes(const MoeConfig& config, const PrototypeOptions& options);
  OwnedLayer ExportLayer(int layer, const at::Tensor& hidden, std::span<const EntryRef> refs) const;

  MoeConfig config_;
  PrototypeOptions options_;
  LinearPart linear_;
  std::vector<Layer> layers_;  // those below first_layer are empty
};

}  // namespace pointsman
