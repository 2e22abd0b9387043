#include "adapt/linear_part.h"

#include <ATen/Functions.h>

#include <string>

#include "adapt/tensors.h"

namespace pointsman {
namespace {

at::Tensor ZeroLeaf(at::IntArrayRef shape) { return at::zeros(shape, at::kFloat).set_requires_grad(true); }

}  // namespace

LinearPart::LinearPart(const MoeConfig& config, const LinearPartOptions& options) : options_(options) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (options.bias_rate > 0) bias_.push_back(ZeroLeaf({config.num_experts}));
    if (options.router_delta_rate > 0) delta_.push_back(ZeroLeaf({config.num_experts, config.hidden_size}));
    if (options.token_table_rate > 0) table_.push_back(ZeroLeaf({config.vocab_size, config.num_experts}));
  }
}

std::vector<Parameter> LinearPart::Parameters() const {
  std::vector<Parameter> parameters;
  const auto add = [&](const char* name, const std::vector<at::Tensor>& tensors, double rate) {
    for (size_t i = 0; i < tensors.size(); ++i) parameters.push_back({name + std::to_string(i), tensors[i], rate});
  };
  add("bias", bias_, options_.bias_rate);
  add("router_delta", delta_, options_.router_delta_rate);
  add("token_table", table_, options_.token_table_rate);
  return parameters;
}

at::Tensor LinearPart::Change(int layer, const at::Tensor& hidden, const Batch& batch, bool) const {
  at::Tensor change;
  const auto add = [&](const at::Tensor& part) { change = change.defined() ? change + part : part; };
  if (!delta_.empty()) add(at::matmul(hidden, delta_[layer].t()));
  if (!table_.empty()) add(at::embedding(table_[layer], batch.ids.view({-1})));
  if (!bias_.empty()) add(bias_[layer].expand({hidden.size(0), -1}));
  return change;
}

void ExportLinear(const LinearPart& linear, int layer, OwnedLayer& owned) {
  if (const at::Tensor delta = linear.router_delta(layer); delta.defined()) owned.router_delta = VectorOf(delta);
  if (const at::Tensor table = linear.token_table(layer); table.defined()) owned.SetTokenTable(VectorOf(table));
}

}  // namespace pointsman
