#include "models/few_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace pointsman {
namespace {

std::vector<float> RandomFloats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random() >> 8) * 0x1.0p-23f - 1.0f;
  return values;
}

// y = W x for the rows [first, first + count) of x, in one call.
std::vector<std::vector<float>> Multiply(const std::vector<float>& x, const std::vector<float>& w, int64_t in,
                                         int64_t out, size_t first, size_t count) {
  std::vector<std::vector<float>> y(count, std::vector<float>(out));
  std::vector<const float*> from;
  std::vector<float*> to;
  for (size_t r = 0; r < count; ++r) {
    from.push_back(x.data() + (first + r) * in);
    to.push_back(y[r].data());
  }
  MultiplyFewRows(from, w.data(), in, out, to);
  return y;
}

TEST(FewRows, ProductsOfEveryShapeAreTheSums) {
  for (const int64_t in : {1, 7, 8, 9, 31, 96, 192, 2053}) {
    for (const int64_t out : {1, 3, 4, 5, 32}) {
      for (const int64_t rows : {1, 2, 3, 4, 5, 16}) {
        const auto x = RandomFloats(rows * in, 1), w = RandomFloats(out * in, 2);
        const auto y = Multiply(x, w, in, out, 0, rows);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t o = 0; o < out; ++o) {
            double expected = 0;
            for (int64_t i = 0; i < in; ++i) expected += double{x[r * in + i]} * w[o * in + i];
            EXPECT_NEAR(y[r][o], expected, 1e-6 * static_cast<double>(in) + 1e-6) << in << " " << out << " " << rows;
          }
        }
      }
    }
  }
}

TEST(FewRows, ARowHasTheSameBitsBesideAnyOthers) {
  constexpr int64_t kIn = 93, kOut = 39;
  const auto x = RandomFloats(16 * kIn, 3), w = RandomFloats(kOut * kIn, 4);
  const auto together = Multiply(x, w, kIn, kOut, 0, 16);
  for (size_t first = 0; first < 16; ++first) {
    for (size_t count = 1; first + count <= 16; ++count) {
      const auto some = Multiply(x, w, kIn, kOut, first, count);
      for (size_t r = 0; r < count; ++r) EXPECT_EQ(some[r], together[first + r]) << first << " " << count;
    }
  }
}

TEST(FewRows, AnyNumberOfThreadsGivesTheSameBits) {
  constexpr int64_t kIn = 512, kOut = 4101;  // more than a thread's share
  static_assert(kIn * kOut > 2 * kProductsPerThread);
  const auto x = RandomFloats(3 * kIn, 5), w = RandomFloats(kOut * kIn, 6);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = Multiply(x, w, kIn, kOut, 0, 3);
  at::set_num_threads(3);
  const auto three = Multiply(x, w, kIn, kOut, 0, 3);
  at::set_num_threads(threads);
  EXPECT_EQ(one, three);
}

TEST(FewRows, SoftmaxIsLibTorchs) {
  for (const int64_t width : {1, 5, 64, 4096}) {
    auto scores = RandomFloats(width, 9);
    for (float& score : scores) score *= 30;
    const at::Tensor expected = at::softmax(at::tensor(scores) * 0.5, 0);
    Softmax(scores, 0.5f);
    for (int64_t i = 0; i < width; ++i) {
      EXPECT_NEAR(scores[i], expected[i].item<float>(), 1e-6) << width;
    }
  }
}

TEST(FewRows, WeightedSumsOfEveryWidth) {
  for (const int64_t width : {1, 5, 8, 24, 32, 33, 64, 128, 131}) {
    for (const size_t rows : {1u, 2u, 50u}) {
      const auto weights = RandomFloats(rows, 7), values = RandomFloats(rows * width, 8);
      std::vector<float> y(width + 1, 9.0f);
      WeightedSum(weights, values.data(), width, y.data());
      for (int64_t i = 0; i < width; ++i) {
        double expected = 0;
        for (size_t r = 0; r < rows; ++r) expected += double{weights[r]} * values[r * width + i];
        EXPECT_NEAR(y[i], expected, 1e-5) << width << " " << rows;
      }
      EXPECT_EQ(y[width], 9.0f) << "wrote beyond the row";
    }
  }
}

}  // namespace
}  // namespace pointsman
