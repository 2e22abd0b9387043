#include "models/few_rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pointsman {
namespace {

using Rows = std::span<const float* const>;
using Results = std::span<float* const>;

// y[r][o] for first <= o < last.
using MultiplyFunction = void (*)(Rows x, const float* w, int64_t in, int64_t first, int64_t last, Results y);
using WeightedSumFunction = void (*)(std::span<const float> weights, const float* rows, int64_t width, float* y);

void MultiplyPortable(Rows x, const float* w, int64_t in, int64_t first, int64_t last, Results y) {
  constexpr int64_t kLanes = 8;  // independent sums, so that the compiler may use vector registers
  for (int64_t o = first; o < last; ++o) {
    const float* row = w + o * in;
    for (size_t r = 0; r < x.size(); ++r) {
      float lanes[kLanes] = {};
      int64_t i = 0;
      for (; i + kLanes <= in; i += kLanes) {
        for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[r][i + lane] * row[i + lane];
      }
      for (int64_t lane = 0; i < in; ++i, ++lane) lanes[lane] += x[r][i] * row[i];
      for (int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
      }
      y[r][o] = lanes[0];
    }
  }
}

void WeightedSumPortable(std::span<const float> weights, const float* rows, int64_t width, float* y) {
  std::fill_n(y, width, 0.0f);
  for (const float weight : weights) {
    for (int64_t i = 0; i < width; ++i) y[i] += weight * rows[i];
    rows += width;
  }
}

#if defined(__x86_64__)
#define POINTSMAN_AVX2 __attribute__((target("avx2,fma")))

constexpr int64_t kLanes = 8;
constexpr int64_t kOutputs = 4;  // rows of W in one tile: with 3 rows of x they fill 12 of 16 registers
// How far ahead of its use W is asked for. Without it a product whose W lies in the third-level cache waits for half of
// its time: matrices of experts are too short for the processor to notice that they are read in order.
constexpr int64_t kPrefetchFloats = 1024;

// The lanes that exist: the first `count` of 8.
POINTSMAN_AVX2 inline __m256i Mask(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The four sums over lanes.
POINTSMAN_AVX2 inline __m128 SumLanes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

template <int kRows>
POINTSMAN_AVX2 inline void Tile(const float* const* x, const float* w, int64_t in, int64_t o, float* const* y) {
  __m256 sums[kRows][kOutputs];
  for (auto& row : sums) {
    for (__m256& sum : row) sum = _mm256_setzero_ps();
  }
  int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    __m256 rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = _mm256_loadu_ps(x[r] + i);
    for (int c = 0; c < kOutputs; ++c) {
      const __m256 weights = _mm256_loadu_ps(w + c * in + i);
      for (int r = 0; r < kRows; ++r) sums[r][c] = _mm256_fmadd_ps(rows[r], weights, sums[r][c]);
    }
  }
  if (i < in) {
    const __m256i mask = Mask(in - i);
    for (int r = 0; r < kRows; ++r) {
      const __m256 row = _mm256_maskload_ps(x[r] + i, mask);
      for (int c = 0; c < kOutputs; ++c) {
        sums[r][c] = _mm256_fmadd_ps(row, _mm256_maskload_ps(w + c * in + i, mask), sums[r][c]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    _mm_storeu_ps(y[r] + o, SumLanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
  }
}

// One output that no tile of four holds.
POINTSMAN_AVX2 inline float DotLanes(const float* x, const float* w, int64_t in) {
  __m256 sum = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) sum = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(w + i), sum);
  if (i < in) {
    const __m256i mask = Mask(in - i);
    sum = _mm256_fmadd_ps(_mm256_maskload_ps(x + i, mask), _mm256_maskload_ps(w + i, mask), sum);
  }
  const __m256 zero = _mm256_setzero_ps();
  return _mm_cvtss_f32(SumLanes(sum, zero, zero, zero));
}

POINTSMAN_AVX2 void MultiplyAvx2(Rows x, const float* w, int64_t in, int64_t first, int64_t last, Results y) {
  int64_t o = first;
  for (; o + kOutputs <= last; o += kOutputs) {
    const float* tile = w + o * in;
    for (int64_t ahead = 0; ahead < kOutputs * in; ahead += 16) {
      _mm_prefetch(reinterpret_cast<const char*>(tile + kPrefetchFloats + ahead), _MM_HINT_T0);
    }
    size_t r = 0;
    for (; r + 3 <= x.size(); r += 3) Tile<3>(x.data() + r, tile, in, o, y.data() + r);
    if (x.size() - r == 2) Tile<2>(x.data() + r, tile, in, o, y.data() + r);
    if (x.size() - r == 1) Tile<1>(x.data() + r, tile, in, o, y.data() + r);
  }
  for (; o < last; ++o) {
    for (size_t r = 0; r < x.size(); ++r) y[r][o] = DotLanes(x[r], w + o * in, in);
  }
}

POINTSMAN_AVX2 void WeightedSumAvx2(std::span<const float> weights, const float* rows, int64_t width, float* y) {
  const auto count = static_cast<int64_t>(weights.size());
  int64_t column = 0;
  for (; column + 4 * kLanes <= width; column += 4 * kLanes) {  // a head of 32 or 128 in whole passes
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < count; ++i) {
      const __m256 weight = _mm256_set1_ps(weights[i]);
      const float* row = rows + i * width + column;
      for (int v = 0; v < 4; ++v) sums[v] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(row + v * kLanes), sums[v]);
    }
    for (int v = 0; v < 4; ++v) _mm256_storeu_ps(y + column + v * kLanes, sums[v]);
  }
  for (; column < width; column += kLanes) {
    const __m256i mask = Mask(width - column);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; ++i) {
      sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[i]), _mm256_maskload_ps(rows + i * width + column, mask), sum);
    }
    _mm256_maskstore_ps(y + column, mask, sum);
  }
}

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
MultiplyFunction MultiplyHere() { return HasAvx2() ? MultiplyAvx2 : MultiplyPortable; }
WeightedSumFunction WeightedSumHere() { return HasAvx2() ? WeightedSumAvx2 : WeightedSumPortable; }
#else
MultiplyFunction MultiplyHere() { return MultiplyPortable; }
WeightedSumFunction WeightedSumHere() { return WeightedSumPortable; }
#endif

}  // namespace

void MultiplyFewRows(Rows x, const float* w, int64_t in, int64_t out, Results y) {
  const int64_t products = in * static_cast<int64_t>(x.size());
  const int64_t grain = std::max<int64_t>(1, kProductsPerThread / std::max<int64_t>(1, products));
  const MultiplyFunction multiply = MultiplyHere();
  if (grain >= out) {
    multiply(x, w, in, 0, out, y);
    return;
  }
  at::parallel_for(0, out, grain, [&](int64_t first, int64_t last) { multiply(x, w, in, first, last, y); });
}

void WeightedSum(std::span<const float> weights, const float* rows, int64_t width, float* y) {
  WeightedSumHere()(weights, rows, width, y);
}

void Softmax(std::span<float> scores, float scale) {
  const float highest = *std::ranges::max_element(scores);
  float sum = 0;
  for (float& score : scores) sum += score = std::exp(scale * (score - highest));
  for (float& score : scores) score /= sum;
}

}  // namespace pointsman
