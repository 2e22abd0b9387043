#include "models/attention.h"

#include <ATen/ATen.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "models/decode_attention.h"
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

// What a pass's rows ask, and what they add: [N, Q], [N, K], [N, K], before rotation.
struct Projected {
  at::Tensor query, key, value;
  Projected Rows(int64_t first, int64_t count) const {
    return {query.narrow(0, first, count), key.narrow(0, first, count), value.narrow(0, first, count)};
  }
};

Projected Project(const AttentionWeights& weights, const MoeConfig& config, const at::Tensor& x) {
  const int64_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  const at::Tensor fused =
      weights.fused.defined() ? weights.fused : at::cat({weights.query, weights.key, weights.value});
  const auto parts = Linear(x, fused, FusedBias(weights)).split_with_sizes({q, kv, kv}, 1);
  Projected result{RmsNorm(parts[0], weights.query_norm, config.rms_norm_eps),
                   RmsNorm(parts[1], weights.key_norm, config.rms_norm_eps), parts[2]};
  if (config.clip_qkv > 0) {
    for (at::Tensor* part : {&result.query, &result.key, &result.value}) {
      *part = part->clamp(-config.clip_qkv, config.clip_qkv);
    }
  }
  return result;
}

// Appends to the cache and returns everything attention reads, [B, kv heads, past + T, d] twice. A step that records
// gradients reads its own rows from the graph, not from the cache.
std::tuple<at::Tensor, at::Tensor> AppendToCache(const AttentionBlock& block, int layer, const at::Tensor& keys,
                                                 const at::Tensor& values) {
  const int64_t past = block.past, length = block.length;
  const at::Tensor &all_keys = block.cache->keys[layer], &all_values = block.cache->values[layer];
  all_keys.narrow(2, past, length).copy_(keys.detach());
  all_values.narrow(2, past, length).copy_(values.detach());
  if (past == 0) return {keys, values};
  if (keys.requires_grad() || values.requires_grad()) {
    return {at::cat({all_keys.narrow(2, 0, past), keys}, 2), at::cat({all_values.narrow(2, 0, past), values}, 2)};
  }
  return {all_keys.narrow(2, 0, past + length), all_values.narrow(2, 0, past + length)};
}

// One block's rows through LibTorch: [B * T, Q].
at::Tensor Mix(const MoeConfig& config, const RopeTables& rope, const Projected& rows, const AttentionBlock& block,
               int layer) {
  const int64_t batch = block.sequences, length = block.length, past = block.past, dim = config.head_dim;
  const int64_t heads = config.num_heads, kv_heads = config.num_kv_heads;
  const at::Tensor query = ApplyRope(rows.query.view({batch, length, heads, dim}), rope, past);
  at::Tensor key = ApplyRope(rows.key.view({batch, length, kv_heads, dim}), rope, past);
  at::Tensor value = rows.value.reshape({batch, length, kv_heads, dim}).transpose(1, 2);
  if (block.cache) std::tie(key, value) = AppendToCache(block, layer, key, value);
  // A single new row sees every key; a first chunk is plain causal; only a later chunk needs an explicit mask.
  const bool masked = length > 1 && past > 0;
  const at::Tensor mixed = at::scaled_dot_product_attention(
      query, RepeatHeads(key, heads), RepeatHeads(value, heads),
      masked ? std::optional<at::Tensor>(CausalMask(length, past)) : std::nullopt, 0.0, length > 1 && past == 0);
  return mixed.transpose(1, 2).reshape({batch * length, heads * dim});
}

bool IsDecode(const AttentionBlock& block, const Projected& rows) {
  const bool records = at::GradMode::is_enabled() && rows.query.requires_grad();
  return block.length == 1 && block.cache && !records;
}

// All blocks: those of single new rows in one go, the others one by one.
at::Tensor MixBlocks(const MoeConfig& config, const RopeTables& rope, const Projected& rows,
                     std::span<const AttentionBlock> blocks, int layer) {
  if (blocks.size() == 1 && !IsDecode(blocks[0], rows)) return Mix(config, rope, rows, blocks[0], layer);
  at::Tensor mixed = at::empty({rows.query.size(0), rows.query.size(1)}, rows.query.options());
  std::vector<DecodeRow> decode;
  int64_t first = 0;
  for (const AttentionBlock& block : blocks) {
    if (IsDecode(block, rows)) {
      for (int64_t s = 0; s < block.sequences; ++s) decode.push_back({first + s, s, block.past, block.cache});
    } else {
      mixed.narrow(0, first, block.rows()).copy_(Mix(config, rope, rows.Rows(first, block.rows()), block, layer));
    }
    first += block.rows();
  }
  DecodeAttention(config, rope, rows.query, rows.key, rows.value, decode, layer, mixed);
  return mixed;
}

}  // namespace

at::Tensor Attention(const AttentionWeights& weights, const MoeConfig& config, const RopeTables& rope,
                     const at::Tensor& x, std::span<const AttentionBlock> blocks, int layer) {
  const Projected rows = Project(weights, config, x);
  return Linear(MixBlocks(config, rope, rows, blocks, layer), weights.output, weights.output_bias);
}

}  // namespace pointsman
