// AVX-512 with VNNI: sixteen dot products at a time, as 16 keys x 1 query (decode) or 4 keys x 4 queries (prefill).
// AVX-512 implies fused multiply-add, so this file relies on -ffp-contract=off as well as on the shape of the float
// expression (scan.h). dpwssd adds without saturation, so its sums are madd's.
#if defined(__x86_64__)

// GCC 12 takes the "undefined" operands of its own AVX-512 headers for uninitialised variables (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <algorithm>
#include <bit>

#include "memory/kernels/scan.h"

#define POINTSMAN_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace pointsman {
namespace {

POINTSMAN_AVX512 inline __m256i FoldHalves(__m512i sums) {
  return _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
}

// Lane i of the result = sum of the sixteen lanes of accumulators[i], for eight of them.
POINTSMAN_AVX512 inline __m256i ReduceEight(const __m512i* accumulators) {
  __m256i halves[8];
  for (int i = 0; i < 8; ++i) halves[i] = FoldHalves(accumulators[i]);
  const __m256i a01 = _mm256_hadd_epi32(halves[0], halves[1]);
  const __m256i a23 = _mm256_hadd_epi32(halves[2], halves[3]);
  const __m256i a45 = _mm256_hadd_epi32(halves[4], halves[5]);
  const __m256i a67 = _mm256_hadd_epi32(halves[6], halves[7]);
  const __m256i a0123 = _mm256_hadd_epi32(a01, a23);
  const __m256i a4567 = _mm256_hadd_epi32(a45, a67);
  return _mm256_add_epi32(_mm256_permute2x128_si256(a0123, a4567, 0x20), _mm256_permute2x128_si256(a0123, a4567, 0x31));
}

// Adds the products of 32 dims, or of the last 16 (kHalf), to the accumulators, keys major.
template <int kKeys, int kQueries, bool kHalf>
POINTSMAN_AVX512 inline void AddProducts(const int8_t* codes, uint32_t dim, const int16_t* query, uint32_t query_stride,
                                         uint32_t i, __m512i* sums) {
  constexpr __mmask32 kMask = kHalf ? 0x0000ffffu : 0xffffffffu;
  __m512i q[kQueries];
  for (int j = 0; j < kQueries; ++j) q[j] = _mm512_maskz_loadu_epi16(kMask, query + size_t{query_stride} * j + i);
  for (int r = 0; r < kKeys; ++r) {
    const int8_t* key = codes + size_t{dim} * r + i;
    __m256i bytes;
    if constexpr (kHalf) {
      bytes = _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(key)));
    } else {
      bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(key));
    }
    const __m512i widened = _mm512_cvtepi8_epi16(bytes);
    for (int j = 0; j < kQueries; ++j) {
      sums[r * kQueries + j] = _mm512_dpwssd_epi32(sums[r * kQueries + j], widened, q[j]);
    }
  }
}

// The dots of kKeys keys x kQueries queries over dims [begin, end), keys major.
template <int kKeys, int kQueries>
POINTSMAN_AVX512 inline __m512i DotsOfChunk(const int8_t* codes, uint32_t dim, const int16_t* query,
                                            uint32_t query_stride, uint32_t begin, uint32_t end) {
  static_assert(kKeys * kQueries == 16);
  __m512i sums[16];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  uint32_t i = begin;
  for (; i + 32 <= end; i += 32) AddProducts<kKeys, kQueries, false>(codes, dim, query, query_stride, i, sums);
  if (i < end) AddProducts<kKeys, kQueries, true>(codes, dim, query, query_stride, i, sums);
  return _mm512_inserti64x4(_mm512_castsi256_si512(ReduceEight(sums)), ReduceEight(sums + 8), 1);
}

template <int kKeys, int kQueries>
POINTSMAN_AVX512 inline __m512 DotsAsFloat(const int8_t* codes, uint32_t dim, const int16_t* query,
                                           uint32_t padded_dim) {
  if (padded_dim <= kChunkDims) {
    return _mm512_cvtepi32_ps(DotsOfChunk<kKeys, kQueries>(codes, dim, query, padded_dim, 0, padded_dim));
  }
  int64_t totals[16] = {};
  for (uint32_t begin = 0; begin < padded_dim; begin += kChunkDims) {
    const uint32_t end = std::min(padded_dim, begin + kChunkDims);
    alignas(64) int32_t dots[16];
    _mm512_store_si512(dots, DotsOfChunk<kKeys, kQueries>(codes, dim, query, padded_dim, begin, end));
    for (int i = 0; i < 16; ++i) totals[i] += dots[i];
  }
  alignas(64) float floats[16];
  for (int i = 0; i < 16; ++i) floats[i] = static_cast<float>(totals[i]);
  return _mm512_load_ps(floats);
}

POINTSMAN_AVX512 void ScanOneQuery(const KeyBlock& keys, const int16_t* query, uint32_t padded_dim, float query_scale,
                                   TopK* best) {
  const __m512 query_scales = _mm512_set1_ps(query_scale);
  uint32_t row = 0;
  for (; row + 16 <= keys.rows; row += 16) {
    const __m512 dots = DotsAsFloat<16, 1>(keys.codes + size_t{row} * keys.dim, keys.dim, query, padded_dim);
    const __m512 scales = _mm512_mul_ps(_mm512_loadu_ps(keys.scales + row), query_scales);
    const __m512 similarities = _mm512_mul_ps(dots, scales);
    uint32_t hits = _mm512_cmp_ps_mask(similarities, _mm512_set1_ps(best->threshold()), _CMP_GT_OQ);
    if (hits == 0) [[likely]]
      continue;
    alignas(64) float stored[16];
    _mm512_store_ps(stored, similarities);
    for (; hits != 0; hits &= hits - 1) {
      const int lane = std::countr_zero(hits);
      if (stored[lane] > best->threshold()) best->Push(stored[lane], keys.first_row + row + lane);
    }
  }
  const QueryTile one{query, &query_scale, 1, padded_dim};
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, one, best);
}

POINTSMAN_AVX512 void ScanFourQueries(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  const __m512 query_scales = _mm512_broadcast_f32x4(_mm_loadu_ps(queries.scales));
  const __m512i four_times_each = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  alignas(16) float floor[4];
  for (int q = 0; q < 4; ++q) floor[q] = best[q].threshold();
  uint32_t row = 0;
  for (; row + 4 <= keys.rows; row += 4) {
    const __m512 dots =
        DotsAsFloat<4, 4>(keys.codes + size_t{row} * keys.dim, keys.dim, queries.codes, queries.padded_dim);
    const __m512 key_scales =
        _mm512_permutexvar_ps(four_times_each, _mm512_broadcast_f32x4(_mm_loadu_ps(keys.scales + row)));
    const __m512 similarities = _mm512_mul_ps(dots, _mm512_mul_ps(key_scales, query_scales));
    uint32_t hits = _mm512_cmp_ps_mask(similarities, _mm512_broadcast_f32x4(_mm_load_ps(floor)), _CMP_GT_OQ);
    if (hits == 0) [[likely]]
      continue;
    alignas(64) float stored[16];
    _mm512_store_ps(stored, similarities);
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

void ScanBlockAvx512(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  if (queries.count == 4) return ScanFourQueries(keys, queries, best);
  for (uint32_t q = 0; q < queries.count; ++q) {
    ScanOneQuery(keys, queries.codes + size_t{q} * queries.padded_dim, queries.padded_dim, queries.scales[q], best + q);
  }
}

}  // namespace pointsman

#endif  // defined(__x86_64__)
