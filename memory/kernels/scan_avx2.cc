// AVX2: the dot products of eight keys at a time, as in scan_avx512.cc: one query (decode) ends in a reduction over
// lanes, several (prefill) share keys that were turned so that a lane holds a key.
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

constexpr int kLanes = 8;

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

// The dots of eight keys with a query over dims [begin, end).
POINTSMAN_AVX2 inline __m256i DotsOfChunk(const int8_t* codes, uint32_t dim, const int16_t* query, uint32_t begin,
                                          uint32_t end) {
  __m256i sums[kLanes];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (uint32_t i = begin; i < end; i += 16) {
    const __m256i q = _mm256_load_si256(reinterpret_cast<const __m256i*>(query + i));
    for (int r = 0; r < kLanes; ++r) {
      const auto* bytes = reinterpret_cast<const __m128i*>(codes + size_t{dim} * r + i);
      const __m256i key = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
      sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(key, q));
    }
  }
  return ReduceEight(sums);
}

POINTSMAN_AVX2 inline __m256 FloatsOf(const int64_t* totals) {
  alignas(32) float floats[kLanes];
  for (int i = 0; i < kLanes; ++i) floats[i] = static_cast<float>(totals[i]);
  return _mm256_load_ps(floats);
}

POINTSMAN_AVX2 inline void AddTo(int64_t* totals, __m256i dots) {
  alignas(32) int32_t parts[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(parts), dots);
  for (int i = 0; i < kLanes; ++i) totals[i] += parts[i];
}

POINTSMAN_AVX2 inline __m256 DotsAsFloat(const int8_t* codes, uint32_t dim, const int16_t* query, uint32_t padded_dim) {
  if (padded_dim <= kChunkDims) return _mm256_cvtepi32_ps(DotsOfChunk(codes, dim, query, 0, padded_dim));
  int64_t totals[kLanes] = {};
  for (uint32_t begin = 0; begin < padded_dim; begin += kChunkDims) {
    AddTo(totals, DotsOfChunk(codes, dim, query, begin, std::min(padded_dim, begin + kChunkDims)));
  }
  return FloatsOf(totals);
}

// Offers eight keys, from `row` of the whole index on, to one query's best.
POINTSMAN_AVX2 inline void Offer(__m256 dots, __m256 key_scales, float query_scale, uint32_t row, TopK& best) {
  const __m256 similarities = _mm256_mul_ps(dots, _mm256_mul_ps(key_scales, _mm256_set1_ps(query_scale)));
  const __m256 thresholds = _mm256_set1_ps(best.threshold());
  auto hits = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(similarities, thresholds, _CMP_GT_OQ)));
  if (hits == 0) [[likely]]
    return;
  alignas(32) float stored[kLanes];
  _mm256_store_ps(stored, similarities);
  for (; hits != 0; hits &= hits - 1) {
    const int lane = std::countr_zero(hits);
    if (stored[lane] > best.threshold()) best.Push(stored[lane], row + lane);
  }
}

POINTSMAN_AVX2 void ScanOneQuery(const KeyBlock& keys, const QueryTile& query, TopK* best) {
  uint32_t row = 0;
  for (; row + kLanes <= keys.rows; row += kLanes) {
    const int8_t* codes = keys.codes + size_t{row} * keys.dim;
    Offer(DotsAsFloat(codes, keys.dim, query.codes, query.padded_dim), _mm256_loadu_ps(keys.scales + row),
          query.scales[0], keys.first_row + row, *best);
  }
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, query, best);
}

// Eight keys turned: columns[c] holds two dims of each, as int16 in the key's 32-bit lane. Dims come in the order of
// TurnQueriesAvx2. `count` is a multiple of 16.
POINTSMAN_AVX2 inline void TurnKeys(const int8_t* codes, uint32_t dim, uint32_t count, __m256i* columns) {
  for (uint32_t i = 0; i < count; i += 16) {
    // Four dims are a 32-bit word: a 4 x 4 transposition of words in each 128-bit half, which holds keys r, r + 1, ..
    __m256i rows[4];
    for (int r = 0; r < 4; ++r) {
      const auto half = [&](int key) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + size_t{dim} * key + i));
      };
      rows[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(half(r)), half(r + 4), 1);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(rows[0], rows[1]), high01 = _mm256_unpackhi_epi32(rows[0], rows[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(rows[2], rows[3]), high23 = _mm256_unpackhi_epi32(rows[2], rows[3]);
    const __m256i words[4] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                              _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (const __m256i word : words) {
      *columns++ = _mm256_srai_epi16(_mm256_slli_epi16(word, 8), 8);  // bytes 0 and 2, widened
      *columns++ = _mm256_srai_epi16(word, 8);                        // bytes 1 and 3
    }
  }
}

// The dots of the turned keys with kQueries queries, `pairs` columns long.
template <int kQueries>
POINTSMAN_AVX2 inline void DotsOfColumns(const __m256i* columns, uint32_t pairs, const int32_t* queries,
                                         uint32_t stride, __m256i* dots) {
  __m256i sums[kQueries];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (uint32_t c = 0; c < pairs; ++c) {
    const __m256i column = columns[c];
    for (int q = 0; q < kQueries; ++q) {
      const __m256i query = _mm256_set1_epi32(queries[size_t{stride} * q + c]);
      sums[q] = _mm256_add_epi32(sums[q], _mm256_madd_epi16(column, query));
    }
  }
  for (int q = 0; q < kQueries; ++q) dots[q] = sums[q];
}

POINTSMAN_AVX2 inline void DotsOfAll(const __m256i* columns, uint32_t pairs, const int32_t* queries, uint32_t stride,
                                     uint32_t count, __m256i* dots) {
  for (; count >= 8; count -= 8, queries += size_t{stride} * 8, dots += 8) {
    DotsOfColumns<8>(columns, pairs, queries, stride, dots);
  }
  for (; count >= 2; count -= 2, queries += size_t{stride} * 2, dots += 2) {
    DotsOfColumns<2>(columns, pairs, queries, stride, dots);
  }
  if (count == 1) DotsOfColumns<1>(columns, pairs, queries, stride, dots);
}

// The dots of the eight keys at `codes` with every query. Rows of more dims than a chunk are summed in int64.
POINTSMAN_AVX2 inline void DotsOfMany(const int8_t* codes, uint32_t dim, const QueryTile& queries, __m256* floats) {
  __m256i columns[kChunkDims / 2];
  __m256i dots[kQueryTile];
  const uint32_t padded_dim = queries.padded_dim, stride = padded_dim / 2;
  if (padded_dim <= kChunkDims) {
    TurnKeys(codes, dim, padded_dim, columns);
    DotsOfAll(columns, stride, queries.words, stride, queries.count, dots);
    for (uint32_t q = 0; q < queries.count; ++q) floats[q] = _mm256_cvtepi32_ps(dots[q]);
    return;
  }
  int64_t totals[kQueryTile][kLanes] = {};
  for (uint32_t begin = 0; begin < padded_dim; begin += kChunkDims) {
    const uint32_t count = std::min(padded_dim - begin, kChunkDims);
    TurnKeys(codes + begin, dim, count, columns);
    DotsOfAll(columns, count / 2, queries.words + begin / 2, stride, queries.count, dots);
    for (uint32_t q = 0; q < queries.count; ++q) AddTo(totals[q], dots[q]);
  }
  for (uint32_t q = 0; q < queries.count; ++q) floats[q] = FloatsOf(totals[q]);
}

POINTSMAN_AVX2 void ScanManyQueries(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  __m256 dots[kQueryTile];
  uint32_t row = 0;
  for (; row + kLanes <= keys.rows; row += kLanes) {
    DotsOfMany(keys.codes + size_t{row} * keys.dim, keys.dim, queries, dots);
    const __m256 key_scales = _mm256_loadu_ps(keys.scales + row);
    for (uint32_t q = 0; q < queries.count; ++q) {
      Offer(dots[q], key_scales, queries.scales[q], keys.first_row + row, best[q]);
    }
  }
  for (; row < keys.rows; ++row) ScanOneRow(keys, row, queries, best);
}

int32_t PairOf(int16_t low, int16_t high) {
  return static_cast<int32_t>(uint32_t{static_cast<uint16_t>(high)} << 16 | static_cast<uint16_t>(low));
}

}  // namespace

// words [count, padded_dim / 2]: two dims each. Of four dims a, b, c, d the pairs are (a, c) and (b, d): widening the
// bytes of a 32-bit word of a key to int16 gives its even ones, then its odd ones.
TurnedQueries TurnQueriesAvx2(const int16_t* codes, uint32_t count, uint32_t padded_dim) {
  TurnedQueries turned;
  turned.words.resize(size_t{count} * padded_dim / 2);
  for (size_t i = 0; i < size_t{count} * padded_dim; i += 4) {
    turned.words[i / 2] = PairOf(codes[i], codes[i + 2]);
    turned.words[i / 2 + 1] = PairOf(codes[i + 1], codes[i + 3]);
  }
  return turned;
}

void ScanBlockAvx2(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  if (queries.count == 1) {
    ScanOneQuery(keys, queries, best);
  } else {
    ScanManyQueries(keys, queries, best);
  }
}

}  // namespace pointsman

#endif  // defined(__x86_64__)
