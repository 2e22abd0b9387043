// Root-mean-square normalization and rotary positions: the row-wise steps between a transformer's matrix products.
//
// Both are hand-written autograd functions, because LibTorch's own take 4 to 6 passes over memory forward and more
// backward, which on one CPU core costs as much as the matrix products of a small model. Pure; any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pointsman {

// y = weight * x / sqrt(mean(x^2) + eps) over the last dimension (Zhang and Sennrich 2019, eq. 4; no centering).
// x [..., H] fp32 whose last dimension is dense (rows may be strided), weight [H]. Result contiguous.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// cos and sin of position p times theta^(-2i/d), for p in [0, positions) and i in [0, d/2).
struct RopeTables {
  at::Tensor cosine;  // [positions, d / 2]
  at::Tensor sine;
};
RopeTables MakeRopeTables(int64_t positions, int64_t head_dim, double theta);

// Rotary positions in the half-split layout of GPT-NeoX and transformers: (a, b) -> (a cos - b sin, b cos + a sin),
// a and b the two halves of each head. x [B, T, heads, d] contiguous fp32 -> [B, heads, T, d] contiguous; row t has
// position first + t.
at::Tensor ApplyRope(const at::Tensor& x, const RopeTables& tables, int64_t first);

// The same for one position, x [heads, d], without gradients: head h goes to y + h * stride.
void RotateHeads(const float* x, int64_t heads, const RopeTables& tables, int64_t position, float* y, int64_t stride);

}  // namespace pointsman
