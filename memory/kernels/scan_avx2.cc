// AVX2: eight dot products at a time, as 8 keys x 1 query (decode) or 2 keys x 4 queries (prefill). Both fill the eight
// accumulators that 16 registers allow and end in the same 8-lane reduction.
//
// The target is avx2 without fma on purpose: see scan.h for why the float expression must not be fused.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <bit>

#include "memory/kernels/scan.h"

#define POINTSMAN_AVX2 __attribute__((target("avx2")))

namespace pointsman {
namespace {

// Lane i of the result = sum of the eight lanes of accumulators[i].
POINTSMAN_AVX2 inline __m256i ReduceEight(const __m256i* accumulators) {
  const __m256i a01 = _mm256_hadd_epi32(accumulators[0], accumulators[1]);
  const __m256i a23 = _mm256_hadd_epi32(accumulators[2], accumulators[3]);
  const __m256i a45 = _mm256_hadd_epi32(accumulators[4], accumulators[5]);
  const __m256i a67 = _mm256_hadd_epi32(accumulators[6], accumulators[7]);
  const __m256i a0123 = _mm256_hadd_epi32(a01, a23);
  const __m256i a4567 = _mm256_hadd_epi32(a45, a67);
  return _mm256_add_epi32(_mm256_permute2x128_si256(a0123, a4567, 0x20), _mm256_permute2x128_si256(a0123, a4567, 0x31));
}

// The dots of kKeys keys x kQueries queries over dims [begin, end), keys major.
template <int kKeys, int kQueries>
POINTSMAN_AVX2 inline __m256i DotsOfChunk(const int8_t* const* keys, const int16_t* query, uint32_t query_stride,
                                          uint32_t begin, uint32_t end) {
  static_assert(kKeys * kQueries == 8);
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (uint32_t i = begin; i < end; i += 16) {
    __m256i q[kQueries];
    for (int j = 0; j < kQueries; ++j) {
      q[j] = _mm256_load_si256(reinterpret_cast<const __m256i*>(query + size_t{query_stride} * j + i));
    }
    for (int r = 0; r < kKeys; ++r) {
      const __m256i key = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(keys[r] + i)));
      for (int j = 0; j < kQueries; ++j) {
        sums[r * kQueries + j] = _mm256_add_epi32(sums[r * kQueries + j], _mm256_madd_epi16(key, q[j]));
      }
    }
  }
  return ReduceEight(sums);
}

template <int kKeys, int kQueries>
POINTSMAN_AVX2 inline __m256 DotsAsFloat(const int8_t* codes, uint32_t dim, const int16_t* query, uint32_t padded_dim) {
  const int8_t* keys[kKeys];
  for (int r = 0; r < kKeys; ++r) keys[r] = codes + size_t{dim} * r;
  if (padded_dim <= kChunkDims) {
    return _mm256_cvtepi32_ps(DotsOfChunk<kKeys, kQueries>(keys, query, padded_dim, 0, padded_dim));
  }
  int64_t totals[8] = {};
  for (uint32_t begin = 0; begin < padded_dim; begin += kChunkDims) {
    const uint32_t end = std::min(padded_dim, begin + kChunkDims);
    alignas(32) int32_t dots[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(dots),
                       DotsOfChunk<kKeys, kQueries>(keys, query, padded_dim, begin, end));
    for (int i = 0; i < 8; ++i) totals[i] += dots[i];
  }
  alignas(32) float floats[8];
  for (int i = 0; i < 8; ++i) floats[i] = static_cast<float>(totals[i]);
  return _mm256_load_ps(floats);
}

POINTSMAN_AVX2 void ScanOneQuery(const KeyBlock& keys, const int16_t* query, uint32_t padded_dim, float query_scale,
                                 TopK* best) {
  const __m256 query_scales = _mm256_set1_ps(query_scale);
  uint32_t row = 0;
  for (; row + 8 <= keys.rows; row += 8) {
    const __m256 dots = DotsAsFloat<8, 1>(keys.codes + size_t{row} * keys.dim, keys.dim, query, padded_dim);
    const __m256 scales = _mm256_mul_ps(_mm256_loadu_ps(keys.scales + row), query_scales);
    const __m256 similarities = _mm256_mul_ps(dots, scales);
    const __m256 thresholds = _mm256_set1_ps(best->threshold());
    auto hits = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(similarities, thresholds, _CMP_GT_OQ)));
    if (hits == 0) [[likely]]
      continue;
    alignas(32) float stored[8];
    _mm256_store_ps(stored, similarities);
    for (; hits != 0; hits &= hits - 1) {
      const int lane = std::countr_zero(hits);
      if (stored[lane] > best->threshold()) best->Push(stored[lane], keys.first_row + row + lane);
    }
  }
  const QueryTile one{query, &query_scale, 1, padded_dim};
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, one, best);
}

POINTSMAN_AVX2 void ScanFourQueries(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  const __m256 query_scales = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(queries.scales));
  alignas(16) float floor[4];
  for (int q = 0; q < 4; ++q) floor[q] = best[q].threshold();
  uint32_t row = 0;
  for (; row + 2 <= keys.rows; row += 2) {
    const __m256 dots =
        DotsAsFloat<2, 4>(keys.codes + size_t{row} * keys.dim, keys.dim, queries.codes, queries.padded_dim);
    const __m256 key_scales =
        _mm256_set_m128(_mm_broadcast_ss(keys.scales + row + 1), _mm_broadcast_ss(keys.scales + row));
    const __m256 similarities = _mm256_mul_ps(dots, _mm256_mul_ps(key_scales, query_scales));
    const __m256 thresholds = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(floor));
    auto hits = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(similarities, thresholds, _CMP_GT_OQ)));
    if (hits == 0) [[likely]]
      continue;
    alignas(32) float stored[8];
    _mm256_store_ps(stored, similarities);
    for (; hits != 0; hits &= hits - 1) {
      const int lane = std::countr_zero(hits);
      const int q = lane % 4;
      if (stored[lane] > floor[q]) best[q].Push(stored[lane], keys.first_row + row + lane / 4);
      floor[q] = best[q].threshold();
    }
  }
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, queries, best);
}

}  // namespace

void ScanBlockAvx2(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  if (queries.count == 4) return ScanFourQueries(keys, queries, best);
  for (uint32_t q = 0; q < queries.count; ++q) {
    ScanOneQuery(keys, queries.codes + size_t{q} * queries.padded_dim, queries.padded_dim, queries.scales[q], best + q);
  }
}

}  // namespace pointsman

#endif  // defined(__x86_64__)
