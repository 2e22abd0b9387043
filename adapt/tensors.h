// Small bridges between std::vector and at::Tensor (fp32, CPU).
#pragma once

#include <ATen/Functions.h>

#include <cstdint>
#include <span>
#include <vector>

namespace pointsman {

// A copy of `values` with the given shape.
inline at::Tensor TensorOf(std::span<const float> values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat).clone();
}

inline at::Tensor LeafOf(const at::Tensor& values) { return values.detach().clone().set_requires_grad(true); }

inline std::vector<float> VectorOf(const at::Tensor& values) {
  const at::Tensor flat = values.detach().to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

inline std::span<const float> SpanOf(const at::Tensor& values) {
  return {values.const_data_ptr<float>(), static_cast<size_t>(values.numel())};
}

}  // namespace pointsman
