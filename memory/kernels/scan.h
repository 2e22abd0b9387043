// The integer scan behind SearchExact: int16 queries against int8 keys, one function per instruction set, all with the
// same bits in the same order.
//
// Why they agree: dot products are integers, so their order cannot matter, and
//   similarity = float(dot) * (key_scale * query_scale)
// is three roundings with no sum that a compiler could fuse.
//
// Why nothing overflows: |query| <= 32767 and |key| <= 128, so 512 products stay below 2^31. Longer rows are summed in
// chunks of kChunkDims in int32, and the chunks in int64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/kernels/top_k.h"

namespace pointsman {

inline constexpr uint32_t kChunkDims = 512;
static_assert(int64_t{kChunkDims} * 32767 * 128 < (int64_t{1} << 31));

inline constexpr uint32_t kQueryAlign = 16;  // queries are padded with zeros to whole vectors of 16
// Queries that share one pass over a block of keys and the turning of them, which for 16 was a tenth of the work.
inline constexpr uint32_t kQueryTile = 64;

struct KeyBlock {
  const int8_t* codes = nullptr;  // [rows, dim]
  const float* scales = nullptr;  // [rows]
  uint32_t rows = 0;
  uint32_t dim = 0;
  uint32_t first_row = 0;  // number of codes[0] in the whole index
};

struct QueryTile {
  const int16_t* codes = nullptr;  // [count, padded_dim], zeros beyond dim
  // TurnedQueries of the tile, for kernels that make them of a tile of several queries.
  const int32_t* words = nullptr;
  const int32_t* offsets = nullptr;
  const float* reach = nullptr;
  const float* scales = nullptr;  // [count]
  uint32_t count = 0;             // 1..kQueryTile
  uint32_t padded_dim = 0;        // dim rounded up to kQueryAlign
};

// Queries as a kernel that turns keys reads them (its own file says how), made once a batch: many blocks pass them.
struct TurnedQueries {
  std::vector<int32_t> words;    // [count, words a query]
  std::vector<int32_t> offsets;  // [count]
  std::vector<float> reach;      // [count]
};
// codes [count, padded_dim].
using TurnQueriesFunction = TurnedQueries (*)(const int16_t* codes, uint32_t count, uint32_t padded_dim);

// Offers every key of the block to best[i] for every query i of the tile, rows ascending.
// REQUIRES (kernels but the portable one): padded_dim bytes are readable from the start of every row.
using ScanBlockFunction = void (*)(const KeyBlock& keys, const QueryTile& queries, TopK* best);

void ScanBlockPortable(const KeyBlock& keys, const QueryTile& queries, TopK* best);
#if defined(__x86_64__)
void ScanBlockAvx2(const KeyBlock& keys, const QueryTile& queries, TopK* best);
void ScanBlockAvx512(const KeyBlock& keys, const QueryTile& queries, TopK* best);
TurnedQueries TurnQueriesAvx2(const int16_t* codes, uint32_t count, uint32_t padded_dim);
TurnedQueries TurnQueriesAvx512(const int16_t* codes, uint32_t count, uint32_t padded_dim);
#endif

// sum_i query[i] * key[i], exact.
inline int64_t DotExact(const int16_t* query, const int8_t* key, uint32_t dim) {
  int64_t total = 0;
  for (uint32_t begin = 0; begin < dim; begin += kChunkDims) {
    const uint32_t end = dim - begin < kChunkDims ? dim : begin + kChunkDims;
    int32_t sum = 0;
    for (uint32_t i = begin; i < end; ++i) sum += int32_t{query[i]} * int32_t{key[i]};
    total += sum;
  }
  return total;
}

// One key against every query of the tile: all of the portable kernel, and the remainder rows of the others.
inline void ScanOneRow(const KeyBlock& keys, uint32_t row, const QueryTile& queries, TopK* best) {
  const int8_t* key = keys.codes + size_t{row} * keys.dim;
  for (uint32_t q = 0; q < queries.count; ++q) {
    const int64_t dot = DotExact(queries.codes + size_t{q} * queries.padded_dim, key, keys.dim);
    const float similarity = static_cast<float>(dot) * (keys.scales[row] * queries.scales[q]);
    if (similarity > best[q].threshold()) best[q].Push(similarity, keys.first_row + row);
  }
}

}  // namespace pointsman
