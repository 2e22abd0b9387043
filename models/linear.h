// Products with a weight matrix as the files store it: y = W x + b.
//
// A single row without gradients (decoding) is a matrix-vector product, which reads W once. The general product copies
// W into its own layout first: the decode step of OLMoE-1B-7B's shape spent 55 % of its time there.
#pragma once

#include <ATen/ATen.h>

namespace pointsman {

inline bool RecordsGradient(const at::Tensor& x, const at::Tensor& weight) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
}

// x [N, in], weight [out, in], bias [out] or undefined -> [N, out].
inline at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {}) {
  if (x.size(0) != 1 || RecordsGradient(x, weight)) return at::linear(x, weight, bias);
  at::Tensor y = at::mv(weight, x.select(0, 0));
  if (bias.defined()) y.add_(bias);
  return y.unsqueeze(0);
}

// The same without bias and gradients, into `y` [N, out].
inline void LinearInto(at::Tensor y, const at::Tensor& x, const at::Tensor& weight) {
  if (x.size(0) != 1) {
    at::mm_out(y, x, weight.t());
    return;
  }
  at::Tensor row = y.select(0, 0);
  at::mv_out(row, weight, x.select(0, 0));
}

}  // namespace pointsman
