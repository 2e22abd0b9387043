// Causal self-attention of OLMoE: one product for q, k, v; RMSNorm over the whole projected vector (not per head);
// optional clipping; rotary positions; grouped keys and values; softmax(q k / sqrt(d)) v by LibTorch's fused kernel.
// Pure: state lives in the caller's cache. Any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "models/config.h"
#include "models/norm.h"

namespace pointsman {

// fp32, row-major as in the files: y = W x + b. Q = num_heads * head_dim, K = num_kv_heads * head_dim.
struct AttentionWeights {
  at::Tensor query, key, value;                 // [Q, H], [K, H], [K, H]
  at::Tensor output;                            // [H, Q]
  at::Tensor query_norm, key_norm;              // [Q], [K]
  at::Tensor query_bias, key_bias, value_bias;  // [Q], [K], [K], or undefined
  at::Tensor output_bias;                       // [H], or undefined
  at::Tensor fused;  // [Q + 2K, H]: storage that query, key, value are views of; undefined in
                     // a trainable clone, where the three are leaves
};

// Where one layer's keys and values of earlier positions are, [B, kv heads, capacity, d]; undefined: no cache.
struct LayerCache {
  at::Tensor keys, values;
};

// x [B, T, H] at positions past .. past + T - 1 -> [B, T, H]. Writes the new keys and values into `cache` (detached:
// gradients do not reach earlier calls). REQUIRES: past == 0 without a cache; past + T <= capacity.
at::Tensor Attention(const AttentionWeights& weights, const MoeConfig& config, const RopeTables& rope,
                     const at::Tensor& x, int64_t past, const LayerCache& cache);

}  // namespace pointsman
