// Keys and values of the tokens seen so far, one pair of tensors a layer. Owned by one sequence batch; not thread-safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pointsman {

struct KvCache {
  std::vector<at::Tensor> keys;  // per layer [B, kv heads, capacity, head_dim]
  std::vector<at::Tensor> values;
  int64_t length = 0;  // positions filled
  int64_t capacity = 0;
};

}  // namespace pointsman
