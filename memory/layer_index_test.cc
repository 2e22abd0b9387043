#include "memory/layer_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

constexpr ScanKernel kKernels[] = {ScanKernel::kPortable, ScanKernel::kAvx2, ScanKernel::kAvx512};

// Random codes and scales, no projection: raw keys of `dim` dimensions.
struct RandomKeys {
  RandomKeys(uint64_t rows, uint32_t dim, uint64_t seed = 1) : random(seed) {
    index.hidden = index.dim = dim;
    std::uniform_int_distribution<int> code(-127, 127);
    for (uint64_t i = 0; i < rows * dim; ++i) index.codes.push_back(static_cast<int8_t>(code(random)));
    std::uniform_real_distribution<float> scale(0.5f / 127, 1.0f / 127);
    for (uint64_t r = 0; r < rows; ++r) index.code_scales.push_back(scale(random) / std::sqrt(static_cast<float>(dim)));
  }

  KeyIndexView view() const {
    return {index.hidden,     index.dim,   index.code_scales.size(), index.mean,
            index.projection, index.codes, index.code_scales};
  }
  std::vector<float> Queries(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> queries(count * index.hidden);
    for (float& x : queries) x = normal(random);
    return queries;
  }

  OwnedKeyIndex index;
  std::mt19937_64 random;
};

std::vector<Neighbour> Search(ScanKernel kernel, const KeyIndexView& view, const std::vector<float>& queries,
                              uint32_t k) {
  std::vector<Neighbour> found(queries.size() / view.hidden * k);
  SearchExactWith(kernel, view, queries, k, found);
  return found;
}

void ExpectSameBits(const std::vector<Neighbour>& a, const std::vector<Neighbour>& b, const std::string& where) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].row, b[i].row) << where << " slot " << i;
    ASSERT_EQ(std::memcmp(&a[i].similarity, &b[i].similarity, sizeof(float)), 0) << where << " slot " << i;
  }
}

// Cosine of the normalised query to every stored key in double precision, best first, ties by row.
std::vector<std::pair<double, uint32_t>> Oracle(const KeyIndexView& view, const float* query) {
  std::vector<double> q(query, query + view.dim);
  double squares = 0;
  for (double x : q) squares += x * x;
  std::vector<std::pair<double, uint32_t>> all;
  for (uint32_t r = 0; r < view.rows; ++r) {
    double dot = 0;
    for (uint32_t d = 0; d < view.dim; ++d) dot += q[d] * view.codes[size_t{r} * view.dim + d];
    all.emplace_back(dot * view.code_scales[r] / std::sqrt(squares), r);
  }
  std::sort(all.begin(), all.end(),
            [](auto& a, auto& b) { return a.first > b.first || (a.first == b.first && a.second < b.second); });
  return all;
}

struct Shape {
  uint64_t rows;
  uint32_t dim;
  uint32_t k;
  size_t queries;
};

class ScanShapes : public testing::TestWithParam<Shape> {};

TEST_P(ScanShapes, EveryKernelGivesTheSameBits) {
  const Shape shape = GetParam();
  RandomKeys keys(shape.rows, shape.dim);
  const std::vector<float> queries = keys.Queries(shape.queries);
  const std::vector<Neighbour> portable = Search(ScanKernel::kPortable, keys.view(), queries, shape.k);
  for (ScanKernel kernel : kKernels) {
    if (!ScanKernelAvailable(kernel)) continue;
    ExpectSameBits(Search(kernel, keys.view(), queries, shape.k), portable, ScanKernelName(kernel));
  }
}

TEST_P(ScanShapes, AgreesWithADoublePrecisionOracle) {
  const Shape shape = GetParam();
  RandomKeys keys(shape.rows, shape.dim);
  const std::vector<float> queries = keys.Queries(shape.queries);
  const std::vector<Neighbour> found = Search(ScanKernel::kAuto, keys.view(), queries, shape.k);
  for (size_t t = 0; t < shape.queries; ++t) {
    const auto expected = Oracle(keys.view(), queries.data() + t * shape.dim);
    for (uint32_t i = 0; i < shape.k; ++i) {
      const Neighbour& neighbour = found[t * shape.k + i];
      if (i >= shape.rows) {
        EXPECT_EQ(neighbour.similarity, -2.0f);
        continue;
      }
      // int16 queries are within half a step, 2^-16 of the largest component, in every dimension.
      EXPECT_NEAR(neighbour.similarity, expected[i].first, 1e-4) << "query " << t << " rank " << i;
    }
  }
}

TEST_P(ScanShapes, AQueryDoesNotDependOnItsBatch) {
  const Shape shape = GetParam();
  RandomKeys keys(shape.rows, shape.dim);
  const std::vector<float> queries = keys.Queries(shape.queries);
  for (ScanKernel kernel : kKernels) {
    if (!ScanKernelAvailable(kernel)) continue;
    const std::vector<Neighbour> together = Search(kernel, keys.view(), queries, shape.k);
    for (size_t t = 0; t < shape.queries; ++t) {
      const std::vector<float> alone(queries.begin() + t * shape.dim, queries.begin() + (t + 1) * shape.dim);
      const std::vector<Neighbour> expected(together.begin() + t * shape.k, together.begin() + (t + 1) * shape.k);
      ExpectSameBits(Search(kernel, keys.view(), alone, shape.k), expected, ScanKernelName(kernel));
    }
  }
}

// A lender whose threads are all real, started in an order of its own.
LentThreads RealThreads(size_t count, std::atomic<size_t>* calls) {
  return {.count = count, .run = [calls](size_t parts, const std::function<void(size_t)>& work) {
            std::vector<std::jthread> threads;
            for (size_t part = parts; part > 0; --part) {
              threads.emplace_back([&work, calls, part] {
                ++*calls;
                work(part - 1);
              });
            }
          }};
}

TEST(SearchExact, WhatLentThreadsFindHasTheSameBits) {
  // Similarities that repeat, so that ties fall on both sides of every cut; a row that is not whole groups of 16.
  for (const uint32_t dim : {64u, 17u}) {
    RandomKeys keys(70'001, dim);
    for (size_t row = 0; row < keys.index.code_scales.size(); ++row) {
      std::copy_n(keys.index.codes.begin() + static_cast<ptrdiff_t>(row % 90 * dim), dim,
                  keys.index.codes.begin() + static_cast<ptrdiff_t>(row * dim));
      keys.index.code_scales[row] = keys.index.code_scales[row % 90];
    }
    for (const size_t count : {1u, 6u}) {
      const std::vector<float> queries = keys.Queries(count);
      const std::vector<Neighbour> expected = Search(ScanKernel::kAuto, keys.view(), queries, 1'000);
      for (const size_t threads : {2u, 3u}) {
        std::atomic<size_t> calls = 0;
        std::vector<Neighbour> found(expected.size());
        SearchExact(keys.view(), queries, 1'000, found, RealThreads(threads, &calls));
        EXPECT_EQ(calls, dim * count < 64 ? 0 : threads);  // too little to wake anyone
        ExpectSameBits(found, expected, "lent");
      }
    }
  }
}

TEST(SearchExact, AFewKeysAreNotWorthWakingAThread) {
  RandomKeys keys(2'000, 64);
  std::atomic<size_t> calls = 0;
  std::vector<Neighbour> found(3);
  SearchExact(keys.view(), keys.Queries(1), 3, found, RealThreads(4, &calls));
  EXPECT_EQ(calls, 0);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ScanShapes,
                         testing::Values(Shape{1, 1, 1, 1}, Shape{5, 3, 4, 3}, Shape{17, 1, 17, 2}, Shape{33, 15, 8, 5},
                                         Shape{1000, 16, 16, 4}, Shape{1003, 17, 5, 9}, Shape{2500, 64, 16, 6},
                                         Shape{3000, 64, 1024, 4}, Shape{301, 100, 7, 7}, Shape{10, 48, 32, 4},
                                         Shape{600, 513, 16, 4}, Shape{203, 2048, 8, 5}, Shape{64, 4096, 3, 4},
                                         Shape{9, 4095, 9, 2}, Shape{4001, 64, 32, 19}, Shape{7, 64, 4, 300},
                                         Shape{40, 4112, 3, 3}));

TEST(SearchExact, NoSumOverflowsAtTheLargestValuesAndLength) {
  constexpr uint32_t kDim = 4096;
  OwnedKeyIndex index;
  index.hidden = index.dim = kDim;
  index.codes.assign(size_t{kDim} * 40, -128);  // nobody writes -128, but a file may hold it
  index.code_scales.assign(40, 1.0f / 128);
  const KeyIndexView view{kDim, kDim, 40, {}, {}, index.codes, index.code_scales};
  const std::vector<float> queries(size_t{kDim} * 5, -3.0f);
  for (ScanKernel kernel : kKernels) {
    if (!ScanKernelAvailable(kernel)) continue;
    for (const Neighbour& neighbour : Search(kernel, view, queries, 2)) {
      EXPECT_FLOAT_EQ(neighbour.similarity, 64.0f) << ScanKernelName(kernel);  // sqrt(4096) * 1
    }
  }
}

TEST(SearchExact, EqualSimilaritiesComeInRowOrder) {
  RandomKeys keys(1, 64);
  const std::vector<int8_t> row = keys.index.codes;
  for (int copy = 1; copy < 1000; ++copy) keys.index.codes.insert(keys.index.codes.end(), row.begin(), row.end());
  keys.index.code_scales.assign(1000, keys.index.code_scales[0]);
  for (ScanKernel kernel : kKernels) {
    for (size_t batch : {1, 4}) {
      const std::vector<Neighbour> found = Search(kernel, keys.view(), keys.Queries(batch), 37);
      for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].row, i % 37) << ScanKernelName(kernel);
    }
  }
}

TEST(SearchExact, AQueryThatIsNotFiniteFindsNothingAndHarmsNoNeighbour) {
  RandomKeys keys(500, 64);
  std::vector<float> queries = keys.Queries(4);
  const std::vector<Neighbour> clean = Search(ScanKernel::kAuto, keys.view(), queries, 8);
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::max()};
  for (float value : bad) {
    for (ScanKernel kernel : kKernels) {
      std::vector<float> damaged = queries;
      damaged[2 * 64 + 5] = value;
      const std::vector<Neighbour> found = Search(kernel, keys.view(), damaged, 8);
      for (size_t t : {0, 1, 3}) {
        for (size_t i = t * 8; i < t * 8 + 8; ++i) EXPECT_EQ(found[i].row, clean[i].row);
      }
      if (std::isfinite(value)) continue;  // large but finite: a direction like any other
      for (size_t i = 16; i < 24; ++i) EXPECT_EQ(found[i].similarity, -2.0f);
    }
  }
}

TEST(SearchExact, KeysWithHostileScalesAreNeverFoundAndDoNotCrash) {
  RandomKeys keys(64, 16);
  keys.index.code_scales[3] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> queries = keys.Queries(5);
  for (ScanKernel kernel : kKernels) {
    for (const Neighbour& neighbour : Search(kernel, keys.view(), queries, 63)) EXPECT_NE(neighbour.row, 3u);
  }
}

TEST(SearchExact, AnEmptyIndexOrNoNeighboursAskedForIsNotAnError) {
  OwnedKeyIndex index;
  const KeyIndexView view{8, 8, 0, {}, {}, index.codes, index.code_scales};
  const std::vector<float> query(8, 1.0f);
  std::vector<Neighbour> found(3, Neighbour{0.5f, 7});
  SearchExact(view, query, 3, found);
  for (const Neighbour& neighbour : found) EXPECT_EQ(neighbour.similarity, -2.0f);
  SearchExact(view, query, 0, {});
}

class Projected : public testing::TestWithParam<std::pair<uint32_t, uint32_t>> {
 protected:
  // [dim, hidden] with a mean.
  Projected() : keys(200, GetParam().second) {
    index.hidden = GetParam().first;
    index.dim = GetParam().second;
    std::normal_distribution<float> normal;
    for (uint32_t i = 0; i < index.hidden; ++i) index.mean.push_back(normal(keys.random));
    for (uint32_t i = 0; i < index.hidden * index.dim; ++i) index.projection.push_back(normal(keys.random));
    for (uint32_t i = 0; i < index.hidden * 11; ++i) queries.push_back(normal(keys.random));
  }
  KeyIndexView view() const {
    return {index.hidden, index.dim, 200, index.mean, index.projection, keys.index.codes, keys.index.code_scales};
  }

  RandomKeys keys;
  OwnedKeyIndex index;
  std::vector<float> queries;  // [11, hidden]
};

TEST_P(Projected, TransformIsTheNormalisedProjectionOfTheCenteredRow) {
  std::vector<float> out(size_t{11} * index.dim);
  TransformQueries(view(), queries, out);
  for (size_t t = 0; t < 11; ++t) {
    std::vector<double> expected(index.dim);
    double squares = 0;
    for (uint32_t d = 0; d < index.dim; ++d) {
      for (uint32_t i = 0; i < index.hidden; ++i) {
        const double centered = double{queries[t * index.hidden + i]} - index.mean[i];
        expected[d] += centered * index.projection[size_t{d} * index.hidden + i];
      }
      squares += expected[d] * expected[d];
    }
    for (uint32_t d = 0; d < index.dim; ++d) {
      EXPECT_NEAR(out[t * index.dim + d], expected[d] / std::sqrt(squares), 2e-6) << "row " << t << " dim " << d;
    }
  }
}

TEST_P(Projected, EveryKernelProjectsToTheSameBits) {
  const std::vector<Neighbour> portable = Search(ScanKernel::kPortable, view(), queries, 16);
  ExpectSameBits(Search(ScanKernel::kAvx2, view(), queries, 16), portable, "avx2");
  ExpectSameBits(Search(ScanKernel::kAvx512, view(), queries, 16), portable, "avx512");
  for (size_t t = 0; t < 11; ++t) {
    const std::vector<float> alone(queries.begin() + t * index.hidden, queries.begin() + (t + 1) * index.hidden);
    const std::vector<Neighbour> expected(portable.begin() + t * 16, portable.begin() + (t + 1) * 16);
    ExpectSameBits(Search(ScanKernel::kAuto, view(), alone, 16), expected, "alone");
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Projected,
                         testing::Values(std::pair{192u, 64u}, std::pair{2048u, 64u}, std::pair{37u, 5u},
                                         std::pair{16u, 16u}, std::pair{15u, 3u}, std::pair{100u, 1u}));

TEST(TransformQueries, ARowEqualToTheMeanStaysZero) {
  const std::vector<float> mean = {1, 2, 3}, projection = {1, 0, 0, 0, 1, 0};
  const KeyIndexView view{3, 2, 0, mean, projection, {}, {}};
  std::vector<float> out(2, 9.0f);
  TransformQueries(view, mean, out);
  EXPECT_EQ(out, (std::vector<float>{0, 0}));
}

TEST(QuantizeRows, IsWithinHalfAStepAndUsesTheWholeRange) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> rows(7 * 33);
  for (float& x : rows) x = normal(random);
  std::fill(rows.begin() + 33, rows.begin() + 66, 0.0f);
  std::vector<int8_t> codes(rows.size());
  std::vector<float> scales(7);
  QuantizeRows(rows, 33, codes, scales);
  EXPECT_EQ(scales[1], 0.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_NEAR(rows[i], codes[i] * scales[i / 33], scales[i / 33] * 0.5001f);
    EXPECT_NE(codes[i], -128);
  }
  for (size_t r : {0, 2, 3, 4, 5, 6}) {
    int largest = 0;
    for (size_t i = r * 33; i < r * 33 + 33; ++i) largest = std::max(largest, std::abs(int{codes[i]}));
    EXPECT_EQ(largest, 127) << "row " << r;
  }
}

TEST(QuantizeRows, MarksARowThatIsNotFinite) {
  const std::vector<float> rows = {1, std::numeric_limits<float>::infinity(), 1, 2};
  std::vector<int8_t> codes(4);
  std::vector<float> scales(2);
  QuantizeRows(rows, 2, codes, scales);
  EXPECT_TRUE(std::isnan(scales[0]));
  EXPECT_EQ(codes[3], 127);
}

TEST(ScanKernel, NamesWhatRuns) {
  EXPECT_STREQ(ScanKernelName(ScanKernel::kPortable), "portable");
  EXPECT_TRUE(ScanKernelAvailable(ScanKernel::kAuto));
  EXPECT_NE(std::string(ScanKernelName(ScanKernel::kAuto)), "");
}

}  // namespace
}  // namespace pointsman
