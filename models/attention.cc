#include "models/attention.h"

#include <ATen/ATen.h>

#include <cmath>

#include "models/linear.h"

namespace pointsman {
namespace {

// Bias of the fused product, or undefined.
at::Tensor FusedBias(const AttentionWeights& w) {
  return w.query_bias.defined() ? at::cat({w.query_bias, w.key_bias, w.value_bias}) : at::Tensor();
}

// Mask added to the scores of T new rows over past + T keys; row t sees keys 0 .. past + t.
at::Tensor CausalMask(int64_t length, int64_t past) {
  return at::full({length, past + length}, -INFINITY, at::kFloat).triu(past + 1);
}

// [B, kv heads, L, d] -> [B, heads, L, d]: query head h reads key head h / (heads / kv heads).
at::Tensor RepeatHeads(const at::Tensor& x, int64_t heads) {
  const int64_t groups = heads / x.size(1);
  return groups == 1 ? x : x.repeat_interleave(groups, 1);
}

struct KeysAndValues {
  at::Tensor keys, values;  // [B, kv heads, past + T, d]
};

// Appends to the cache and returns everything attention reads. A step that records gradients reads its own rows from
// the graph, not from the cache.
KeysAndValues AppendToCache(const LayerCache& cache, const at::Tensor& keys, const at::Tensor& values, int64_t past) {
  const int64_t length = keys.size(2);
  cache.keys.narrow(2, past, length).copy_(keys.detach());
  cache.values.narrow(2, past, length).copy_(values.detach());
  if (past == 0) return {keys, values};
  if (keys.requires_grad() || values.requires_grad()) {
    return {at::cat({cache.keys.narrow(2, 0, past), keys}, 2), at::cat({cache.values.narrow(2, 0, past), values}, 2)};
  }
  return {cache.keys.narrow(2, 0, past + length), cache.values.narrow(2, 0, past + length)};
}

}  // namespace

at::Tensor Attention(const AttentionWeights& weights, const MoeConfig& config, const RopeTables& rope,
                     const at::Tensor& x, int64_t past, const LayerCache& cache) {
  const int64_t batch = x.size(0), length = x.size(1), dim = config.head_dim;
  const int64_t heads = config.num_heads, kv_heads = config.num_kv_heads;
  const at::Tensor fused =
      weights.fused.defined() ? weights.fused : at::cat({weights.query, weights.key, weights.value});
  const at::Tensor projected = Linear(x.reshape({batch * length, -1}), fused, FusedBias(weights));
  const auto parts = projected.split_with_sizes({heads * dim, kv_heads * dim, kv_heads * dim}, 1);
  at::Tensor query = RmsNorm(parts[0], weights.query_norm, config.rms_norm_eps);
  at::Tensor key = RmsNorm(parts[1], weights.key_norm, config.rms_norm_eps);
  at::Tensor value = parts[2];
  if (config.clip_qkv > 0) {
    query = query.clamp(-config.clip_qkv, config.clip_qkv);
    key = key.clamp(-config.clip_qkv, config.clip_qkv);
    value = value.clamp(-config.clip_qkv, config.clip_qkv);
  }
  query = ApplyRope(query.view({batch, length, heads, dim}), rope, past);
  key = ApplyRope(key.view({batch, length, kv_heads, dim}), rope, past);
  value = value.reshape({batch, length, kv_heads, dim}).transpose(1, 2);
  if (cache.keys.defined())
    std::tie(key, value) = [&] {
      KeysAndValues all = AppendToCache(cache, key, value, past);
      return std::pair(all.keys, all.values);
    }();
  // A single new row sees every key; a first chunk is plain causal; only a later chunk needs an explicit mask.
  const bool masked = length > 1 && past > 0;
  const at::Tensor mixed = at::scaled_dot_product_attention(
      query, RepeatHeads(key, heads), RepeatHeads(value, heads),
      masked ? std::optional<at::Tensor>(CausalMask(length, past)) : std::nullopt, 0.0, length > 1 && past == 0);
  const at::Tensor rows = mixed.transpose(1, 2).reshape({batch * length, heads * dim});
  return Linear(rows, weights.output, weights.output_bias).view({batch, length, -1});
}

}  // namespace pointsman
