// AVX-512 with VNNI: the dot products of sixteen keys at a time. One query (decode) reads the keys as they lie and ends
// in a reduction over lanes. Several (prefill) share keys that were turned so that a lane holds a key: no reduction,
// and one instruction makes 32 products. AVX-512 implies fused multiply-add, so this file relies on -ffp-contract=off
// as well as on the shape of the float expression (scan.h). dpwssd adds without saturation, so its sums are madd's.
#if defined(__x86_64__)

// GCC 12 takes the "undefined" operands of its own AVX-512 headers for uninitialised variables (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "memory/kernels/scan.h"

#define POINTSMAN_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace pointsman {
namespace {

constexpr int kLanes = 16;

constexpr uint32_t kTogether = 8;  // queries whose sums stay in registers

// Longer rows are read a query at a time: sixteen of them turned would not fit any near cache.
constexpr uint32_t kMostTurnedDims = 4096;
static_assert(int64_t{255} * 127 * kMostTurnedDims < (int64_t{1} << 31));  // sums of bytes stay within 32 bits

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

// Adds the products of 32 dims, or of the last 16 (kHalf), of sixteen keys to their accumulators.
template <bool kHalf>
POINTSMAN_AVX512 inline void AddProducts(const int8_t* codes, uint32_t dim, const int16_t* query, uint32_t i,
                                         __m512i* sums) {
  constexpr __mmask32 kMask = kHalf ? 0x0000ffffu : 0xffffffffu;
  const __m512i q = _mm512_maskz_loadu_epi16(kMask, query + i);
  for (int r = 0; r < kLanes; ++r) {
    const int8_t* key = codes + size_t{dim} * r + i;
    __m256i bytes;
    if constexpr (kHalf) {
      bytes = _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(key)));
    } else {
      bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(key));
    }
    sums[r] = _mm512_dpwssd_epi32(sums[r], _mm512_cvtepi8_epi16(bytes), q);
  }
}

// The dots of sixteen keys with a query over dims [begin, end).
POINTSMAN_AVX512 inline __m512i DotsOfChunk(const int8_t* codes, uint32_t dim, const int16_t* query, uint32_t begin,
                                            uint32_t end) {
  __m512i sums[kLanes];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  uint32_t i = begin;
  for (; i + 32 <= end; i += 32) AddProducts<false>(codes, dim, query, i, sums);
  if (i < end) AddProducts<true>(codes, dim, query, i, sums);
  return _mm512_inserti64x4(_mm512_castsi256_si512(ReduceEight(sums)), ReduceEight(sums + 8), 1);
}

POINTSMAN_AVX512 inline __m512 FloatsOf(const int64_t* totals) {
  alignas(64) float floats[kLanes];
  for (int i = 0; i < kLanes; ++i) floats[i] = static_cast<float>(totals[i]);
  return _mm512_load_ps(floats);
}

POINTSMAN_AVX512 inline void AddTo(int64_t* totals, __m512i dots) {
  alignas(64) int32_t parts[kLanes];
  _mm512_store_si512(parts, dots);
  for (int i = 0; i < kLanes; ++i) totals[i] += parts[i];
}

POINTSMAN_AVX512 inline __m512 DotsAsFloat(const int8_t* codes, uint32_t dim, const int16_t* query,
                                           uint32_t padded_dim) {
  if (padded_dim <= kChunkDims) return _mm512_cvtepi32_ps(DotsOfChunk(codes, dim, query, 0, padded_dim));
  int64_t totals[kLanes] = {};
  for (uint32_t begin = 0; begin < padded_dim; begin += kChunkDims) {
    AddTo(totals, DotsOfChunk(codes, dim, query, begin, std::min(padded_dim, begin + kChunkDims)));
  }
  return FloatsOf(totals);
}

// Offers sixteen keys, from `row` of the block on, to one query's best.
POINTSMAN_AVX512 inline void Offer(__m512 dots, __m512 key_scales, float query_scale, uint32_t row, TopK& best) {
  const __m512 similarities = _mm512_mul_ps(dots, _mm512_mul_ps(key_scales, _mm512_set1_ps(query_scale)));
  uint32_t hits = _mm512_cmp_ps_mask(similarities, _mm512_set1_ps(best.threshold()), _CMP_GT_OQ);
  if (hits == 0) [[likely]]
    return;
  alignas(64) float stored[kLanes];
  _mm512_store_ps(stored, similarities);
  for (; hits != 0; hits &= hits - 1) {
    const int lane = std::countr_zero(hits);
    if (stored[lane] > best.threshold()) best.Push(stored[lane], row + lane);
  }
}

POINTSMAN_AVX512 void ScanOneQuery(const KeyBlock& keys, const int16_t* query, uint32_t padded_dim, float query_scale,
                                   TopK* best) {
  uint32_t row = 0;
  for (; row + kLanes <= keys.rows; row += kLanes) {
    const int8_t* codes = keys.codes + size_t{row} * keys.dim;
    Offer(DotsAsFloat(codes, keys.dim, query, padded_dim), _mm512_loadu_ps(keys.scales + row), query_scale,
          keys.first_row + row, *best);
  }
  const QueryTile one{.codes = query, .scales = &query_scale, .count = 1, .padded_dim = padded_dim};
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, one, best);
}

// Sixteen keys turned: words[c] holds four dims of each in the key's 32-bit lane, as bytes of key + 128: what dpbusd
// multiplies is unsigned on one side. `count` is a multiple of 16.
POINTSMAN_AVX512 inline void TurnKeys(const int8_t* codes, uint32_t dim, uint32_t count, __m512i* words) {
  const __m512i unsign = _mm512_set1_epi8(static_cast<char>(0x80));
  for (uint32_t i = 0; i < count; i += 16) {
    // A 4 x 4 transposition of words in each 128-bit part, which holds four neighbouring keys.
    __m512i rows[4];
    for (int r = 0; r < 4; ++r) {
      const auto part = [&](int key) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + size_t{dim} * key + i));
      };
      rows[r] = _mm512_castsi128_si512(part(r));
      rows[r] = _mm512_inserti32x4(rows[r], part(r + 4), 1);
      rows[r] = _mm512_inserti32x4(rows[r], part(r + 8), 2);
      rows[r] = _mm512_inserti32x4(rows[r], part(r + 12), 3);
      rows[r] = _mm512_xor_si512(rows[r], unsign);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]), high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]), high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
    *words++ = _mm512_unpacklo_epi64(low01, low23);
    *words++ = _mm512_unpackhi_epi64(low01, low23);
    *words++ = _mm512_unpacklo_epi64(high01, high23);
    *words++ = _mm512_unpackhi_epi64(high01, high23);
  }
}

// sum_i query[i] * key[i] for up to kChunkDims dims.
POINTSMAN_AVX512 inline int64_t DotOfOne(const int16_t* query, const int8_t* key, uint32_t padded_dim) {
  __m512i sum = _mm512_setzero_si512();
  for (uint32_t i = 0; i < padded_dim; i += 16) {
    const __m256i part = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(key + i)));
    const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + i));
    sum = _mm512_dpwssd_epi32(sum, _mm512_zextsi256_si512(part), _mm512_zextsi256_si512(q));
  }
  return _mm512_reduce_add_epi32(sum);
}

// The keys that the filter lets through, by their true similarity.
POINTSMAN_AVX512 __attribute__((noinline)) void OfferCandidates(const KeyBlock& keys, const QueryTile& queries,
                                                                uint32_t q, uint32_t row, uint32_t candidates,
                                                                TopK& best) {
  const int16_t* query = queries.codes + size_t{q} * queries.padded_dim;
  for (; candidates != 0; candidates &= candidates - 1) {
    const uint32_t at = row + static_cast<uint32_t>(std::countr_zero(candidates));
    const int8_t* key = keys.codes + size_t{at} * keys.dim;
    const int64_t dot =
        queries.padded_dim <= kChunkDims ? DotOfOne(query, key, queries.padded_dim) : DotExact(query, key, keys.dim);
    const float similarity = static_cast<float>(dot) * (keys.scales[at] * queries.scales[q]);
    if (similarity > best.threshold()) best.Push(similarity, keys.first_row + at);
  }
}

// What the filter reads of a tile's queries: the factors of its bound.
struct FilterScales {
  float high[kQueryTile];   // 256 scale
  float reach[kQueryTile];  // reach scale
};

// A filter that keeps every key that may be among the best, then the true dots of what it kept:
//   dot = 256 high . key + low . key <= 256 high . key + reach
// and rounding to float and multiplying by the scales, none of which is negative, keep the order of two numbers. So the
// result is that of comparing all keys exactly, at a fourth of the products. Sixteen turned keys, kQueries queries from
// `first` on, all in registers.
template <uint32_t kQueries>
POINTSMAN_AVX512 inline void OfferTurned(const __m512i* words, const KeyBlock& keys, uint32_t row,
                                         const QueryTile& queries, const FilterScales& scales, uint32_t first,
                                         TopK* best) {
  const uint32_t stride = queries.padded_dim / 4;
  const int32_t* high = queries.words + size_t{first} * stride;
  __m512i dots[kQueries];
  for (uint32_t q = 0; q < kQueries; ++q) dots[q] = _mm512_set1_epi32(queries.offsets[first + q]);
  for (uint32_t c = 0; c < stride; ++c) {
    const __m512i word = words[c];
    for (uint32_t q = 0; q < kQueries; ++q) {
      dots[q] = _mm512_dpbusd_epi32(dots[q], word, _mm512_set1_epi32(high[size_t{stride} * q + c]));
    }
  }
  const __m512 key_scales = _mm512_loadu_ps(keys.scales + row);
  uint32_t candidates[kQueries], any = 0;
  for (uint32_t q = 0; q < kQueries; ++q) {
    const __m512 most = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[q]), _mm512_set1_ps(scales.high[first + q]),
                                        _mm512_set1_ps(scales.reach[first + q]));
    candidates[q] =
        _mm512_cmp_ps_mask(_mm512_mul_ps(most, key_scales), _mm512_set1_ps(best[first + q].threshold()), _CMP_GT_OQ);
    any |= candidates[q];
  }
  if (any == 0) [[likely]]
    return;
  for (uint32_t q = 0; q < kQueries; ++q) {
    if (candidates[q] != 0) OfferCandidates(keys, queries, first + q, row, candidates[q], best[first + q]);
  }
}

POINTSMAN_AVX512 void ScanManyQueries(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  __m512i words[kMostTurnedDims / 4];
  FilterScales scales;
  for (uint32_t q = 0; q < queries.count; ++q) {
    scales.high[q] = 256 * queries.scales[q];
    scales.reach[q] = queries.reach[q] * queries.scales[q];
  }
  uint32_t row = 0;
  for (; row + kLanes <= keys.rows; row += kLanes) {
    TurnKeys(keys.codes + size_t{row} * keys.dim, keys.dim, queries.padded_dim, words);
    uint32_t q = 0;
    for (; q + kTogether <= queries.count; q += kTogether)
      OfferTurned<kTogether>(words, keys, row, queries, scales, q, best);
    for (; q + 2 <= queries.count; q += 2) OfferTurned<2>(words, keys, row, queries, scales, q, best);
    if (q < queries.count) OfferTurned<1>(words, keys, row, queries, scales, q, best);
  }
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, queries, best);
}

}  // namespace

// A query's high bytes, q = 256 high + low, four to a word, and how far the products of the low ones can reach.
TurnedQueries TurnQueriesAvx512(const int16_t* codes, uint32_t count, uint32_t padded_dim) {
  TurnedQueries turned;
  turned.words.resize(size_t{count} * padded_dim / 4);
  auto* bytes = reinterpret_cast<int8_t*>(turned.words.data());
  for (uint32_t q = 0; q < count; ++q) {
    int64_t high_sum = 0, low_sum = 0;
    for (uint32_t i = 0; i < padded_dim; ++i) {
      const int value = *codes++;
      const int high = std::clamp((value + 128) >> 8, -127, 127);
      *bytes++ = static_cast<int8_t>(high);
      high_sum += high;
      low_sum += std::abs(value - 256 * high);
    }
    turned.offsets.push_back(static_cast<int32_t>(-128 * high_sum));  // dpbusd's keys are 128 too large
    // 2^-20 of the largest dot covers the roundings of the filter's floats, which are a few 2^-24 of it.
    turned.reach.push_back(static_cast<float>(128 * low_sum) +
                           static_cast<float>(padded_dim) * (256.0f * 127 * 128) * 0x1.0p-20f);
  }
  return turned;
}

void ScanBlockAvx512(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  if (queries.count > 1 && queries.padded_dim <= kMostTurnedDims) return ScanManyQueries(keys, queries, best);
  for (uint32_t q = 0; q < queries.count; ++q) {
    ScanOneQuery(keys, queries.codes + size_t{q} * queries.padded_dim, queries.padded_dim, queries.scales[q], best + q);
  }
}

}  // namespace pointsman

#endif  // defined(__x86_64__)
