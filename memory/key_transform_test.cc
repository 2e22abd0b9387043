#include "memory/key_transform.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace pointsman {
namespace {

using testing::HasSubstr;

constexpr uint32_t kHidden = 24;

// Correlated rows with a mean far from 0 and a spectrum that falls by 4 from one direction to the next, 12 of them.
std::vector<float> CorrelatedRows(size_t count, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> directions(12 * kHidden);
  for (float& x : directions) x = normal(random);
  std::vector<float> rows(count * kHidden);
  for (size_t r = 0; r < count; ++r) {
    for (uint32_t i = 0; i < kHidden; ++i) rows[r * kHidden + i] = 5.0f;
    for (int c = 0; c < 12; ++c) {
      const float weight = normal(random) * std::pow(2.0f, static_cast<float>(-c));
      for (uint32_t i = 0; i < kHidden; ++i) rows[r * kHidden + i] += weight * directions[c * kHidden + i];
    }
  }
  return rows;
}

std::vector<double> Project(const KeyTransform& transform, std::span<const float> rows, uint32_t dim) {
  std::vector<double> out(rows.size() / kHidden * dim);
  for (size_t r = 0; r < rows.size() / kHidden; ++r) {
    for (uint32_t d = 0; d < dim; ++d) {
      for (uint32_t i = 0; i < kHidden; ++i) {
        out[r * dim + d] +=
            double{transform.projection[d * kHidden + i]} * (double{rows[r * kHidden + i]} - transform.mean[i]);
      }
    }
  }
  return out;
}

TEST(FitWhitening, ComponentsAreUncorrelatedWithVarianceOne) {
  constexpr uint32_t kDim = 6;
  constexpr size_t kCount = 3000;
  const std::vector<float> rows = CorrelatedRows(kCount);
  auto transform = FitWhitening(rows, kHidden, kDim);
  ASSERT_TRUE(transform.ok()) << transform.error().message;
  ASSERT_EQ(transform.value().mean.size(), kHidden);
  ASSERT_EQ(transform.value().projection.size(), kDim * kHidden);
  const std::vector<double> projected = Project(transform.value(), rows, kDim);
  for (uint32_t a = 0; a < kDim; ++a) {
    for (uint32_t b = 0; b <= a; ++b) {
      double covariance = 0;
      for (size_t r = 0; r < kCount; ++r) covariance += projected[r * kDim + a] * projected[r * kDim + b];
      EXPECT_NEAR(covariance / kCount, a == b ? 1.0 : 0.0, 0.02) << a << "," << b;
    }
  }
}

TEST(FitWhitening, DirectionsWithoutVarianceStayBounded) {
  const std::vector<float> rows = CorrelatedRows(500);  // rank 12 of 24
  auto transform = FitWhitening(rows, kHidden, kHidden);
  ASSERT_TRUE(transform.ok()) << transform.error().message;
  // The strongest direction has variance 1; the floor is 1e-6 of it, so that the others are at most 1,000 x longer.
  double first = 0, longest = 0;
  for (uint32_t d = 0; d < kHidden; ++d) {
    double squares = 0;
    for (uint32_t i = 0; i < kHidden; ++i) squares += std::pow(transform.value().projection[d * kHidden + i], 2);
    if (d == 0) first = std::sqrt(squares);
    longest = std::max(longest, std::sqrt(squares));
  }
  EXPECT_LE(longest, first * 1001);
}

TEST(FitWhitening, FewerRowsThanHiddenIsEnoughForAFewDimensions) {
  EXPECT_TRUE(FitWhitening(CorrelatedRows(10), kHidden, 4).ok());
}

TEST(FitWhitening, GivesTheSameBitsForAnyNumberOfThreads) {
  const std::vector<float> rows = CorrelatedRows(2000);
  auto one = FitWhitening(rows, kHidden, 8);
  const int before = omp_get_max_threads();
  omp_set_num_threads(4);
  auto four = FitWhitening(rows, kHidden, 8);
  EXPECT_EQ(omp_get_max_threads(), 4);  // the caller's setting is put back
  omp_set_num_threads(before);
  ASSERT_TRUE(one.ok() && four.ok());
  EXPECT_EQ(one.value().projection, four.value().projection);
  EXPECT_EQ(one.value().mean, four.value().mean);
}

TEST(FitWhitening, SaysWhatIsWrongWithTheRows) {
  const std::vector<float> rows = CorrelatedRows(10);
  auto few = FitWhitening(rows, kHidden, 11);
  ASSERT_FALSE(few.ok());
  EXPECT_EQ(few.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(few.error().message, HasSubstr("10 router inputs for 11 dimensions"));

  auto wide = FitWhitening(rows, kHidden, kHidden + 1);
  ASSERT_FALSE(wide.ok());
  EXPECT_THAT(wide.error().message, HasSubstr("hidden size of 24"));

  auto none = FitWhitening({}, kHidden, 4);
  ASSERT_FALSE(none.ok());
  EXPECT_THAT(none.error().message, HasSubstr("0 router inputs"));

  auto constant = FitWhitening(std::vector<float>(kHidden * 50, 0.3f), kHidden, 4);
  ASSERT_FALSE(constant.ok());
  EXPECT_THAT(constant.error().message, HasSubstr("equal"));

  std::vector<float> broken = rows;
  broken[17] = std::numeric_limits<float>::quiet_NaN();
  auto nan = FitWhitening(broken, kHidden, 4);
  ASSERT_FALSE(nan.ok());
  EXPECT_THAT(nan.error().message, HasSubstr("not finite"));
}

constexpr uint32_t kDim = 8;

// `count` unit rows around each of the first `groups` axes, group by group in turn.
std::vector<float> GroupedRows(size_t count, uint32_t groups) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> noise(0, 0.05f);
  std::vector<float> rows(count * groups * kDim);
  for (size_t r = 0; r < count * groups; ++r) {
    double squares = 0;
    for (uint32_t d = 0; d < kDim; ++d) {
      float& x = rows[r * kDim + d];
      x = (d == r % groups ? 1.0f : 0.0f) + noise(random);
      squares += double{x} * x;
    }
    for (uint32_t d = 0; d < kDim; ++d) rows[r * kDim + d] /= static_cast<float>(std::sqrt(squares));
  }
  return rows;
}

TEST(SphericalKMeans, FindsTheGroupsWithCentroidsOfLengthOne) {
  auto centroids = SphericalKMeans(GroupedRows(200, 4), kDim, 4, 10, 7);
  ASSERT_TRUE(centroids.ok()) << centroids.error().message;
  ASSERT_EQ(centroids.value().size(), 4 * kDim);
  std::vector<int> found(4);
  for (int c = 0; c < 4; ++c) {
    double squares = 0;
    for (uint32_t d = 0; d < kDim; ++d) squares += std::pow(centroids.value()[c * kDim + d], 2);
    EXPECT_NEAR(squares, 1.0, 1e-5);
    for (int axis = 0; axis < 4; ++axis) found[axis] += centroids.value()[c * kDim + axis] > 0.98f;
  }
  EXPECT_EQ(found, std::vector<int>(4, 1));
}

TEST(SphericalKMeans, DependsOnTheSeedAndNotOnThreads) {
  const std::vector<float> rows = GroupedRows(300, 8);
  auto first = SphericalKMeans(rows, kDim, 32, 8, 1);
  const int before = omp_get_max_threads();
  omp_set_num_threads(3);
  auto again = SphericalKMeans(rows, kDim, 32, 8, 1);
  omp_set_num_threads(before);
  auto other = SphericalKMeans(rows, kDim, 32, 8, 2);
  ASSERT_TRUE(first.ok() && again.ok() && other.ok());
  EXPECT_EQ(first.value(), again.value());
  EXPECT_NE(first.value(), other.value());
}

TEST(SphericalKMeans, AsManyClustersAsRowsIsAllowedAndMoreIsAnError) {
  const std::vector<float> rows = GroupedRows(1, 4);
  EXPECT_TRUE(SphericalKMeans(rows, kDim, 4, 3, 1).ok());
  auto more = SphericalKMeans(rows, kDim, 5, 3, 1);
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(more.error().message, HasSubstr("4 rows for 5 clusters"));
  EXPECT_FALSE(SphericalKMeans(rows, kDim, 0, 3, 1).ok());
}

}  // namespace
}  // namespace pointsman
