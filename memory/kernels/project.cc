#include "memory/kernels/project.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pointsman {
namespace {

constexpr size_t kLanes = 16;
constexpr size_t kRowTile = 4;     // projection rows summed side by side: 4 x 2 accumulators
constexpr size_t kQueryBatch = 8;  // queries centered at a time: 8 x 2048 floats stay within L2

float SumLanes(const float* lanes) {
  float sum[kLanes];
  std::copy(lanes, lanes + kLanes, sum);
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t j = 0; j < width; ++j) sum[j] += sum[j + width];
  }
  return sum[0];
}

// The elements after the last whole group of 16, into the lanes where they belong.
void AddTail(const float* a, const float* b, size_t begin, size_t size, float* lanes) {
  for (size_t i = begin; i < size; ++i) lanes[i % kLanes] += a[i] * b[i];
}

float DotPortable(const float* a, const float* b, size_t size) {
  float lanes[kLanes] = {};
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  AddTail(a, b, whole, size, lanes);
  return SumLanes(lanes);
}

#if defined(__x86_64__)
// out[r] = dot(rows + r * size, x) for four rows. avx2 without fma: see the header.
__attribute__((target("avx2"))) void DotFourAvx2(const float* rows, const float* x, size_t size, float* out) {
  __m256 low[kRowTile], high[kRowTile];
  for (size_t r = 0; r < kRowTile; ++r) low[r] = high[r] = _mm256_setzero_ps();
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    const __m256 x_low = _mm256_loadu_ps(x + i), x_high = _mm256_loadu_ps(x + i + 8);
    for (size_t r = 0; r < kRowTile; ++r) {
      const float* row = rows + r * size + i;
      low[r] = _mm256_add_ps(low[r], _mm256_mul_ps(_mm256_loadu_ps(row), x_low));
      high[r] = _mm256_add_ps(high[r], _mm256_mul_ps(_mm256_loadu_ps(row + 8), x_high));
    }
  }
  for (size_t r = 0; r < kRowTile; ++r) {
    float lanes[kLanes];
    _mm256_storeu_ps(lanes, low[r]);
    _mm256_storeu_ps(lanes + 8, high[r]);
    AddTail(rows + r * size, x, whole, size, lanes);
    out[r] = SumLanes(lanes);
  }
}
#endif

void Normalise(std::span<float> row) {
  double squares = 0;
  for (float x : row) squares += double{x} * double{x};
  if (!std::isfinite(squares)) {
    std::fill(row.begin(), row.end(), std::numeric_limits<float>::quiet_NaN());
  } else if (squares > 0) {
    const double inverse = 1.0 / std::sqrt(squares);
    for (float& x : row) x = static_cast<float>(x * inverse);
  }
}

// centered [count, H] -> out [count, D]; a tile of projection rows stays in L1 while all queries pass.
void Project(const KeyIndexView& view, const float* centered, size_t count, [[maybe_unused]] bool use_simd,
             float* out) {
  const size_t hidden = view.hidden, dim = view.dim;
  size_t d = 0;
#if defined(__x86_64__)
  for (; use_simd && d + kRowTile <= dim; d += kRowTile) {
    for (size_t t = 0; t < count; ++t) {
      DotFourAvx2(view.projection.data() + d * hidden, centered + t * hidden, hidden, out + t * dim + d);
    }
  }
#endif
  for (; d < dim; ++d) {
    for (size_t t = 0; t < count; ++t) {
      out[t * dim + d] = DotPortable(view.projection.data() + d * hidden, centered + t * hidden, hidden);
    }
  }
}

}  // namespace

void TransformRows(const KeyIndexView& view, std::span<const float> rows, bool use_simd, std::span<float> out) {
  const size_t hidden = view.hidden, dim = view.dim;
  const size_t total = hidden == 0 ? 0 : rows.size() / hidden;
  std::vector<float> centered(std::min(total, kQueryBatch) * hidden);
  for (size_t first = 0; first < total; first += kQueryBatch) {
    const size_t count = std::min(kQueryBatch, total - first);
    std::copy_n(rows.data() + first * hidden, count * hidden, centered.data());
    for (size_t t = 0; t < count && !view.mean.empty(); ++t) {
      for (size_t i = 0; i < hidden; ++i) centered[t * hidden + i] -= view.mean[i];
    }
    float* block = out.data() + first * dim;
    if (view.projection.empty()) {
      std::copy_n(centered.data(), count * dim, block);
    } else {
      Project(view, centered.data(), count, use_simd, block);
    }
    for (size_t t = 0; t < count; ++t) Normalise({block + t * dim, dim});
  }
}

float QuantizeQuery(std::span<const float> row, std::span<int16_t> codes) {
  std::fill(codes.begin(), codes.end(), int16_t{0});
  float largest = 0;
  for (float x : row) {
    if (!std::isfinite(x)) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(x));
  }
  const float scale = largest / 32767.0f;
  if (scale == 0.0f) return 0.0f;
  for (size_t i = 0; i < row.size(); ++i) {
    codes[i] = static_cast<int16_t>(std::clamp(std::nearbyint(row[i] / scale), -32767.0f, 32767.0f));
  }
  return scale;
}

}  // namespace pointsman
