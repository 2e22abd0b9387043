#include "models/decode_attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "models/few_rows.h"

namespace pointsman {
namespace {

// Floats of keys and values a thread that are worth waking it for.
constexpr int64_t kFloatsPerThread = 1 << 20;

float* RowOf(const at::Tensor& matrix, int64_t row) { return matrix.data_ptr<float>() + row * matrix.stride(0); }

// Position `past` of each key or value head in the cache of one layer [B, kv heads, capacity, d].
float* CacheRow(const at::Tensor& layer, int64_t sequence, int64_t past) {
  return layer.data_ptr<float>() + sequence * layer.stride(0) + past * layer.stride(2);
}

// One layer's attention of one pass.
struct Call {
  const MoeConfig& config;
  const RopeTables& rope;
  int layer;
};

void Append(const Call& call, const float* key, const float* value, const DecodeRow& row) {
  const at::Tensor &keys = row.cache->keys[call.layer], &values = row.cache->values[call.layer];
  const int64_t heads = call.config.num_kv_heads, dim = call.config.head_dim;
  RotateHeads(key, heads, call.rope, row.past, CacheRow(keys, row.sequence, row.past), keys.stride(1));
  float* to = CacheRow(values, row.sequence, row.past);
  for (int64_t h = 0; h < heads; ++h) std::copy_n(value + h * dim, dim, to + h * values.stride(1));
}

// Attends for one key head after another, with the memory of the one before.
class HeadAttention {
 public:
  explicit HeadAttention(const Call& call) : call_(call) {}

  // The query heads that read key head `kv` of one row. `query` and `mixed` are the row's.
  void Attend(const float* query, const DecodeRow& row, int64_t kv, float* mixed) {
    const int64_t dim = call_.config.head_dim, group = call_.config.num_heads / call_.config.num_kv_heads;
    const int64_t length = row.past + 1;
    const at::Tensor &keys = row.cache->keys[call_.layer], &values = row.cache->values[call_.layer];
    rotated_.resize(group * dim);
    scores_.resize(group * length);
    queries_.clear();
    results_.clear();
    for (int64_t g = 0; g < group; ++g) {
      queries_.push_back(rotated_.data() + g * dim);
      results_.push_back(scores_.data() + g * length);
    }
    RotateHeads(query + kv * group * dim, group, call_.rope, row.past, rotated_.data(), dim);
    MultiplyFewRows(queries_, CacheRow(keys, row.sequence, 0) + kv * keys.stride(1), dim, length, results_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (int64_t g = 0; g < group; ++g) {
      const std::span weights(scores_.data() + g * length, length);
      Softmax(weights, scale);
      WeightedSum(weights, CacheRow(values, row.sequence, 0) + kv * values.stride(1), dim,
                  mixed + (kv * group + g) * dim);
    }
  }

 private:
  const Call& call_;
  std::vector<float> rotated_, scores_;  // [group, d], [group, length]
  std::vector<const float*> queries_;
  std::vector<float*> results_;
};

}  // namespace

void DecodeAttention(const MoeConfig& config, const RopeTables& rope, const at::Tensor& query, const at::Tensor& key,
                     const at::Tensor& value, std::span<const DecodeRow> rows, int layer, const at::Tensor& mixed) {
  const Call call{config, rope, layer};
  int64_t longest = 1;
  for (const DecodeRow& row : rows) {
    Append(call, RowOf(key, row.row), RowOf(value, row.row), row);
    longest = std::max(longest, row.past + 1);
  }
  const int64_t heads = config.num_kv_heads, tasks = static_cast<int64_t>(rows.size()) * heads;
  const auto attend = [&](int64_t first, int64_t last) {
    HeadAttention head(call);
    for (int64_t i = first; i < last; ++i) {
      const DecodeRow& row = rows[i / heads];
      head.Attend(RowOf(query, row.row), row, i % heads, RowOf(mixed, row.row));
    }
  };
  const int64_t grain = std::max<int64_t>(1, kFloatsPerThread / (2 * config.head_dim * longest));
  if (grain >= tasks) {
    attend(0, tasks);
  } else {
    at::parallel_for(0, tasks, grain, attend);
  }
}

}  // namespace pointsman
