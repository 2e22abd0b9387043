// Causal self-attention of OLMoE: one product for q, k, v; RMSNorm over the whole projected vector (not per head);
// optional clipping; rotary positions; grouped keys and values; softmax(q k / sqrt(d)) v by LibTorch's fused kernel,
// and for single new positions by models/decode_attention.h. Pure: state lives in the caller's cache. Any number of
// threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/config.h"
#include "models/kv_cache.h"
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

// Part of a forward pass, in rows that lie side by side: `length` new positions of each of `sequences` sequences, after
// the `past` positions that are in the cache. Without a cache past is 0.
struct AttentionBlock {
  int64_t sequences = 1, length = 1, past = 0;
  KvCache* cache = nullptr;
  int64_t rows() const { return sequences * length; }
};

// x [N, H], the rows of `blocks` in their order -> [N, H]. Writes the new keys and values into layer `layer` of the
// blocks' caches (detached: gradients do not reach earlier calls), not their lengths. REQUIRES: past + length <=
// capacity; without gradients where there are several blocks.
at::Tensor Attention(const AttentionWeights& weights, const MoeConfig& config, const RopeTables& rope,
                     const at::Tensor& x, std::span<const AttentionBlock> blocks, int layer);

}  // namespace pointsman
