// Attention of single new positions over their own caches, without gradients: a decoding step of one sequence or of
// many at different positions. No tensor is made: LibTorch's operators cost more to start than a short row costs to
// attend.
//
// Microseconds a layer of the reference model, one thread of an AMD EPYC: LibTorch sequence by sequence, LibTorch on
// one padded and masked product of all, this. After 100 positions: 1 sequence 25, 62, 5; 8 sequences 178, 124, 36; 16
// sequences 351, 207, 78. After 220: 32, 69, 11; 227, 170, 82; 470, 350, 180.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/config.h"
#include "models/kv_cache.h"
#include "models/norm.h"

namespace pointsman {

// One new position: row `row` of the pass is at position `past` of sequence `sequence` of the cache.
struct DecodeRow {
  int64_t row = 0, sequence = 0, past = 0;
  KvCache* cache = nullptr;
};

// query [N, Q], key and value [N, K], before rotation; rows dense, at any stride. Puts keys and values into the caches
// and the mixed values into the rows of `mixed` [N, Q]. A row's result does not depend on the others. Runs on the
// calling thread, and on LibTorch's pool where there is much to read.
void DecodeAttention(const MoeConfig& config, const RopeTables& rope, const at::Tensor& query, const at::Tensor& key,
                     const at::Tensor& value, std::span<const DecodeRow> rows, int layer, const at::Tensor& mixed);

}  // namespace pointsman
