#include "indexer/evaluation/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

namespace pointsman {
namespace {

ClusterDifference Cluster(uint64_t id, double per_token, uint64_t tokens = 1) {
  return {id, per_token * static_cast<double>(tokens), tokens};
}

std::vector<ClusterDifference> Clusters(const std::vector<double>& values) {
  std::vector<ClusterDifference> clusters;
  for (size_t i = 0; i < values.size(); ++i) clusters.push_back(Cluster(i, values[i]));
  return clusters;
}

// Deterministic standard normal numbers (Box-Muller over a linear congruence), for simulations.
class Normal {
 public:
  explicit Normal(uint64_t seed) : state_(seed * 2862933555777941757ull + 3037000493ull) {}
  double Uniform() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return (static_cast<double>(state_ >> 11) + 0.5) * 0x1p-53;
  }
  double Next() { return std::sqrt(-2 * std::log(Uniform())) * std::cos(2 * std::numbers::pi * Uniform()); }

 private:
  uint64_t state_;
};

TEST(PairedDifferencesTest, SumsTheDocumentsOfAClusterInAnyOrder) {
  const std::vector<DocumentNll> a = {{11, 7, 10.0, 4}, {12, 7, 6.0, 2}, {13, 3, 5.0, 5}};
  const std::vector<DocumentNll> b = {{13, 3, 4.0, 5}, {12, 7, 7.0, 2}, {11, 7, 8.0, 4}};
  const auto result = PairedDifferences(a, b);
  ASSERT_TRUE(result.ok());
  ASSERT_EQ(result.value().size(), 2u);
  EXPECT_EQ(result.value()[0].cluster, 3u);
  EXPECT_DOUBLE_EQ(result.value()[0].difference_sum, 1.0);
  EXPECT_EQ(result.value()[1].tokens, 6u);
  EXPECT_DOUBLE_EQ(result.value()[1].difference_sum, 1.0);  // (10 - 8) + (6 - 7)
  EXPECT_DOUBLE_EQ(WeightedMean(result.value()), 2.0 / 11);
}

TEST(PairedDifferencesTest, RefusesAnUnpairedComparison) {
  const std::vector<DocumentNll> a = {{11, 7, 10.0, 4}, {12, 7, 6.0, 2}};
  const std::vector<DocumentNll> other_tokens = {{11, 7, 10.0, 5}, {12, 7, 6.0, 2}};
  const std::vector<DocumentNll> fewer = {{11, 7, 10.0, 4}};
  for (const auto& b : {other_tokens, fewer}) {
    EXPECT_FALSE(PairedDifferences(a, b).ok());
    const auto reverse = PairedDifferences(b, a);
    ASSERT_FALSE(reverse.ok());
    EXPECT_EQ(reverse.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(reverse.error().message.find("score them again"), std::string::npos);
  }
}

TEST(WeightedMeanTest, WeighsByTokens) {
  const std::vector<ClusterDifference> differences = {Cluster(1, -1.0, 30), Cluster(2, 1.0, 10)};
  EXPECT_DOUBLE_EQ(WeightedMean(differences), -0.5);
  EXPECT_DOUBLE_EQ(WeightedMean({}), 0.0);
}

TEST(SignFlipTest, CountsAllPatternsExactly) {
  // |±1 ±2 ±3|: 6 in 2 of 8 patterns; at least 4 in 4 of 8; at least 0 in all.
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters({1, 2, 3}), {}), 2.0 / 8);
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters({-1, 2, 3}), {}), 4.0 / 8);
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters({1, 2, -3}), {}), 1.0);
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters({-0.3}), {}), 1.0);
}

TEST(SignFlipTest, TiesOfRoundedSumsCount) {
  // Sums taken in another order differ in their last bits; the observed pattern and its mirror must still be counted.
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters({0.1, 0.1, 0.1, 0.1}), {}), 2.0 / 16);
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters(std::vector<double>(16, -0.01)), {}), 2.0 / 65536);
}

TEST(SignFlipTest, NoDifferenceAnywhereHasPOne) {
  EXPECT_DOUBLE_EQ(SignFlipP(Clusters({0, 0, 0}), {}), 1.0);
  EXPECT_DOUBLE_EQ(SignFlipP({}, {}), 1.0);
}

TEST(SignFlipTest, SamplingAgreesWithCounting) {
  Normal normal(5);
  std::vector<double> values;
  for (int i = 0; i < 14; ++i) values.push_back(0.4 + normal.Next());
  const double exact = SignFlipP(Clusters(values), {});
  const double sampled = SignFlipP(Clusters(values), {.seed = 1, .exact_permutation_clusters = 0});
  EXPECT_NEAR(sampled, exact, 4 * std::sqrt(exact * (1 - exact) / 10000));
}

TEST(SignFlipTest, IsUniformUnderTheNullHypothesis) {
  int below = 0;
  constexpr int kTrials = 400;
  for (int trial = 0; trial < kTrials; ++trial) {
    Normal normal(1000 + trial);
    std::vector<double> values;
    for (int i = 0; i < 30; ++i) values.push_back(normal.Next());
    below += SignFlipP(Clusters(values), {.seed = static_cast<uint64_t>(trial), .permutations = 1000}) <= 0.1;
  }
  EXPECT_NEAR(below / double{kTrials}, 0.1, 0.05);  // 3.3 standard errors
}

// How often the interval holds the true mean, for documents of unequal length.
double Coverage(int clusters, int trials) {
  int hits = 0;
  for (int trial = 0; trial < trials; ++trial) {
    Normal normal(77 + trial);
    std::vector<ClusterDifference> differences;
    for (int i = 0; i < clusters; ++i) {
      const auto tokens = static_cast<uint64_t>(50 + 400 * normal.Uniform());
      differences.push_back(Cluster(i, -0.2 + 0.3 * normal.Next(), tokens));
    }
    const Interval interval =
        BootstrapInterval(differences, {.seed = static_cast<uint64_t>(trial), .bootstrap_resamples = 1000});
    hits += interval.low <= -0.2 && -0.2 <= interval.high;
  }
  return hits / static_cast<double>(trials);
}

TEST(BootstrapTest, CoversTheTruthInNineteenOfTwenty) {
  // Standard error of a share of .95 over 400 trials: .011.
  EXPECT_NEAR(Coverage(40, 400), 0.95, 0.035);
  EXPECT_NEAR(Coverage(12, 400), 0.95, 0.045);
}

TEST(BootstrapTest, MatchesTheNormalIntervalOfManyClusters) {
  Normal normal(3);
  std::vector<double> values;
  double sum = 0, squares = 0;
  for (int i = 0; i < 500; ++i) {
    values.push_back(normal.Next());
    sum += values.back();
    squares += values.back() * values.back();
  }
  const double mean = sum / 500, error = std::sqrt((squares / 500 - mean * mean) / 499);
  const Interval interval = BootstrapInterval(Clusters(values), {.seed = 9});
  EXPECT_NEAR(interval.low, mean - 1.96 * error, 0.15 * error);
  EXPECT_NEAR(interval.high, mean + 1.96 * error, 0.15 * error);
}

TEST(BootstrapTest, ClusteringWidensTheInterval) {
  // The same 40 documents, alone or as copies in 10 clusters of 4.
  std::vector<ClusterDifference> alone, copies;
  Normal normal(4);
  for (int i = 0; i < 10; ++i) {
    const double value = normal.Next();
    for (int j = 0; j < 4; ++j) alone.push_back(Cluster(4 * i + j, value, 100));
    copies.push_back(Cluster(i, value, 400));
  }
  const Interval narrow = BootstrapInterval(alone, {}), wide = BootstrapInterval(copies, {});
  EXPECT_GT(wide.high - wide.low, 1.7 * (narrow.high - narrow.low));
}

TEST(BootstrapTest, IsSeededAndDegenerateCasesAreHonest) {
  const auto clusters = Clusters({0.1, -0.4, 0.3, 0.2, -0.1});
  const Interval first = BootstrapInterval(clusters, {.seed = 1}), again = BootstrapInterval(clusters, {.seed = 1});
  const Interval other = BootstrapInterval(clusters, {.seed = 2});
  EXPECT_EQ(first.low, again.low);
  EXPECT_EQ(first.high, again.high);
  EXPECT_NE(first.low, other.low);
  EXPECT_TRUE(std::isinf(BootstrapInterval(Clusters({0.1}), {}).low));
  const Interval zero = BootstrapInterval(Clusters({0, 0, 0}), {});
  EXPECT_EQ(zero.low, 0.0);
  EXPECT_EQ(zero.high, 0.0);
}

// How often a figure whose truth is -0.2 lies in the interval when a recipe is trained with `seeds` seeds, each of
// which shifts every document by a number of its own. `widened` false: as if the seeds were not known of.
double CoverageOverSeeds(int seeds, int trials, double seed_sd, bool widened) {
  int hits = 0;
  for (int trial = 0; trial < trials; ++trial) {
    Normal normal(9001 + trial);
    std::vector<double> shifts;
    for (int s = 0; s < seeds; ++s) shifts.push_back(seed_sd * normal.Next());
    std::vector<ClusterDifference> differences;
    std::vector<double> means(seeds, 0);
    for (int i = 0; i < 40; ++i) {
      const double document = -0.2 + 0.2 * normal.Next();
      double sum = 0;
      for (int s = 0; s < seeds; ++s) {
        const double value = document + shifts[s] + 0.02 * normal.Next();
        means[s] += value / 40;
        sum += value / seeds;
      }
      differences.push_back(Cluster(i, sum, 100));
    }
    std::vector<SeedVariance> variance;
    if (widened) variance.push_back(*VarianceOverSeeds(means, means.size()));
    const Estimate estimate = EstimateDifference(
        differences, {.seed = static_cast<uint64_t>(trial), .bootstrap_resamples = 500, .permutations = 10}, variance);
    hits += estimate.ci95.low <= -0.2 && -0.2 <= estimate.ci95.high;
  }
  return hits / static_cast<double>(trials);
}

TEST(SeedsTest, IntervalsHoldWhatAnotherSeedWouldGive) {
  // Documents alone give an error of .032, seeds one of .035 (3) or .027 (5).
  EXPECT_NEAR(CoverageOverSeeds(3, 300, 0.06, true), 0.95, 0.045);
  EXPECT_NEAR(CoverageOverSeeds(5, 300, 0.06, true), 0.95, 0.045);
  EXPECT_LT(CoverageOverSeeds(3, 300, 0.06, false), 0.88);  // the same intervals without the seeds are too narrow
}

TEST(SeedsTest, ASpreadWidensTheIntervalAndRaisesP) {
  Normal normal(12);
  std::vector<double> values;
  for (int i = 0; i < 40; ++i) values.push_back(-0.2 + 0.1 * normal.Next());
  const Estimate alone = EstimateDifference(Clusters(values), {});
  const std::vector<SeedVariance> small = {{1e-12, 2}}, large = {{0.04, 2}};
  const Estimate hardly = EstimateDifference(Clusters(values), {}, small);
  EXPECT_NEAR(hardly.ci95.low, alone.ci95.low, 1e-6);
  EXPECT_DOUBLE_EQ(hardly.p, alone.p);
  const Estimate wide = EstimateDifference(Clusters(values), {}, large);
  EXPECT_EQ(wide.mean, alone.mean);
  EXPECT_GT(wide.ci95.high, 0);  // +-.2 between seeds, two degrees of freedom: nothing is sure
  EXPECT_GT(wide.p, 0.2);
}

TEST(SeedsTest, VarianceIsOfTheMeanOrOfOneTraining) {
  const std::vector<double> means = {3.0, 3.2, 3.4};
  EXPECT_NEAR(VarianceOverSeeds(means, 1)->of_mean, 0.04, 1e-12);
  EXPECT_NEAR(VarianceOverSeeds(means, 3)->of_mean, 0.04 / 3, 1e-12);
  EXPECT_EQ(VarianceOverSeeds(means, 3)->degrees, 2u);
  EXPECT_FALSE(VarianceOverSeeds(std::vector<double>{3.0}, 1).has_value());
}

// Damage under a gate: most documents are left alone, a few change. How often the true damage is above the upper end.
double MissedDamage(int clusters, double touched, int trials) {
  constexpr double kOfTouched = 0.01;
  int missed = 0;
  for (int trial = 0; trial < trials; ++trial) {
    Normal normal(501 + trial);
    std::vector<ClusterDifference> differences;
    for (int i = 0; i < clusters; ++i) {
      const bool opened = normal.Uniform() < touched;
      differences.push_back(Cluster(i, opened ? kOfTouched * (1 + normal.Next()) : 0.0, 100));
    }
    const Interval interval =
        BootstrapInterval(differences, {.seed = static_cast<uint64_t>(trial), .bootstrap_resamples = 500});
    missed += interval.high < touched * kOfTouched;
  }
  return missed / static_cast<double>(trials);
}

TEST(BootstrapTest, TheUpperEndOfRareDamageHolds) {
  EXPECT_LT(MissedDamage(60, 0.3, 400), 0.07);  // .025 nominal; documents that are mostly zero make it optimistic
  EXPECT_LT(MissedDamage(60, 0.1, 400), 0.13);
  EXPECT_GT(MissedDamage(60, 0.02, 400), 0.2);  // hardly ever touched: mostly nothing is seen, as UntouchedBound says
}

TEST(ClustersForTest, AHalfAsWideIntervalTakesFourTimesTheDocuments) {
  Estimate estimate;
  estimate.ci95 = {-0.04, 0.0};
  estimate.clusters = 30;
  EXPECT_EQ(ClustersFor(estimate, 0.01), 120u);
  EXPECT_EQ(ClustersFor(estimate, 0.0), 0u);
  estimate.ci95.low = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(ClustersFor(estimate, 0.01), 0u);
}

TEST(EstimateTest, CarriesCountsBesideTheFigures) {
  const std::vector<ClusterDifference> differences = {Cluster(1, -1.0, 30), Cluster(2, -2.0, 10), Cluster(3, -1.5, 20)};
  const Estimate estimate = EstimateDifference(differences, {});
  EXPECT_DOUBLE_EQ(estimate.mean, -80.0 / 60);
  EXPECT_EQ(estimate.clusters, 3u);
  EXPECT_EQ(estimate.tokens, 60u);
  EXPECT_DOUBLE_EQ(estimate.p, 2.0 / 8);
  EXPECT_LT(estimate.ci95.low, estimate.mean);
  EXPECT_GT(estimate.ci95.high, estimate.mean);
}

TEST(HolmTest, KnownCase) {
  // Holm 1979 by hand: sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .06 (kept monotone).
  const std::vector<double> adjusted = HolmAdjust(std::vector<double>{0.01, 0.04, 0.03, 0.005});
  ASSERT_EQ(adjusted.size(), 4u);
  EXPECT_DOUBLE_EQ(adjusted[0], 0.03);
  EXPECT_DOUBLE_EQ(adjusted[1], 0.06);
  EXPECT_DOUBLE_EQ(adjusted[2], 0.06);
  EXPECT_DOUBLE_EQ(adjusted[3], 0.02);
  EXPECT_DOUBLE_EQ(HolmAdjust(std::vector<double>{0.6, 0.7})[0], 1.0);
  EXPECT_TRUE(HolmAdjust({}).empty());
}

TEST(QuantileTest, InterpolatesAsNumpyDoes) {
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.25), 1.75);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 1.0), 4.0);
  EXPECT_DOUBLE_EQ(Quantile({7}, 0.3), 7.0);
}

}  // namespace
}  // namespace pointsman
