// Products with a weight matrix as the files store it: y = W x + b. Few rows without gradients (decoding) take the way
// of models/few_rows.h.
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "models/few_rows.h"

namespace pointsman {

inline bool RecordsGradient(const at::Tensor& x, const at::Tensor& weight) {
  return at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
}

// Without gradients, into `y` [N, out]. x and y have dense rows side by side.
inline void LinearInto(at::Tensor y, const at::Tensor& x, const at::Tensor& weight) {
  const int64_t rows = x.size(0), in = x.size(1), out = weight.size(0);
  if (rows > kFewRows) {
    at::mm_out(y, x, weight.t());
    return;
  }
  std::array<const float*, kFewRows> from;
  std::array<float*, kFewRows> to;
  for (int64_t r = 0; r < rows; ++r) {
    from[r] = x.const_data_ptr<float>() + r * in;
    to[r] = y.data_ptr<float>() + r * out;
  }
  MultiplyFewRows(std::span(from).first(rows), weight.const_data_ptr<float>(), in, out, std::span(to).first(rows));
}

// x [N, in], weight [out, in], bias [out] or undefined -> [N, out].
inline at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {}) {
  if (x.size(0) > kFewRows || RecordsGradient(x, weight)) return at::linear(x, weight, bias);
  at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  LinearInto(y, x.contiguous(), weight);
  if (bias.defined()) y.add_(bias);
  return y;
}

}  // namespace pointsman
