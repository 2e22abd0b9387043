// The optional parts that go with a memory and under its gate: a router delta W [E, H] and a token table U [V, E] per
// layer (findings F2). Alone, they are the baselines `bias` (one vector a layer) and `router_finetune` (W only).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "adapt/routing_module.h"
#include "memory/routing_tables_owned.h"
#include "models/config.h"

namespace pointsman {

struct LinearPartOptions {
  double bias_rate = 0;  // 0 = the part is absent
  double router_delta_rate = 0;
  double token_table_rate = 0;
};

class LinearPart : public RoutingModule {
 public:
  LinearPart(const MoeConfig& config, const LinearPartOptions& options);
  std::vector<Parameter> Parameters() const override;
  at::Tensor Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const override;

  // Undefined where the part is absent.
  at::Tensor bias(int layer) const { return bias_.empty() ? at::Tensor() : bias_[layer]; }            // [E]
  at::Tensor router_delta(int layer) const { return delta_.empty() ? at::Tensor() : delta_[layer]; }  // [E, H]
  at::Tensor token_table(int layer) const { return table_.empty() ? at::Tensor() : table_[layer]; }   // [V, E]

 private:
  LinearPartOptions options_;
  std::vector<at::Tensor> bias_, delta_, table_;
};

// The router delta and token table of a layer, quantised into `owned`.
void ExportLinear(const LinearPart& linear, int layer, OwnedLayer& owned);

}  // namespace pointsman
