#include "indexer/evaluation/statistics.h"

#include <algorithm>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

namespace pointsman {
namespace {

// splitmix64 (Steele, Lea, Flood 2014): the same numbers on every machine, unlike the standard library's distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  // In [0, n), n < 2^32: the high half of a product; its bias is below 2^-32.
  size_t Below(size_t n) { return static_cast<size_t>(((Next() >> 32) * n) >> 32); }

 private:
  uint64_t state_;
};

// The tail that makes a percentile interval as wide as Student's t would for n clusters (Hesterberg 2015, 5.2).
double ExpandedTail(size_t n, double tail) {
  const double t = boost::math::quantile(boost::math::students_t(static_cast<double>(n - 1)), tail);
  return boost::math::cdf(boost::math::normal(), std::sqrt(static_cast<double>(n) / static_cast<double>(n - 1)) * t);
}

// The share of all 2^n sign patterns at least as far from 0 as the observed sum. Gray code order: one sign changes a
// step.
double ExactSignFlipP(const std::vector<double>& sums, double threshold) {
  double sum = -std::accumulate(sums.begin(), sums.end(), 0.0);
  std::vector<bool> positive(sums.size(), false);
  const uint64_t patterns = uint64_t{1} << sums.size();
  uint64_t hits = 0;
  for (uint64_t i = 1; i <= patterns; ++i) {
    hits += std::abs(sum) >= threshold;
    const size_t flip = static_cast<size_t>(__builtin_ctzll(i));
    if (flip >= sums.size()) break;
    sum += positive[flip] ? -2 * sums[flip] : 2 * sums[flip];
    positive[flip] = !positive[flip];
  }
  return static_cast<double>(hits) / static_cast<double>(patterns);
}

double SampledSignFlipP(const std::vector<double>& sums, double threshold, const StatisticsOptions& options) {
  Random random(options.seed ^ 0x7369676E666C6970ull);
  uint64_t hits = 0;
  for (uint32_t i = 0; i < options.permutations; ++i) {
    double sum = 0;
    uint64_t bits = 0;
    for (size_t j = 0; j < sums.size(); ++j) {
      if (j % 64 == 0) bits = random.Next();
      sum += (bits & 1) ? sums[j] : -sums[j];
      bits >>= 1;
    }
    hits += std::abs(sum) >= threshold;
  }
  return static_cast<double>(hits + 1) / static_cast<double>(options.permutations + 1);
}

// Variance of the weighted mean between clusters, linearised (a ratio of sums).
double ClusterVariance(std::span<const ClusterDifference> differences, double mean) {
  double squares = 0, tokens = 0;
  for (const ClusterDifference& d : differences) {
    const double residual = d.difference_sum - mean * static_cast<double>(d.tokens);
    squares += residual * residual;
    tokens += static_cast<double>(d.tokens);
  }
  const auto n = static_cast<double>(differences.size());
  return squares / (tokens * tokens) * n / (n - 1);
}

void WidenBySeeds(std::span<const ClusterDifference> differences, std::span<const SeedVariance> seeds,
                  Estimate& estimate) {
  const auto quantile = [](double degrees) { return boost::math::quantile(boost::math::students_t(degrees), 0.975); };
  const double between = ClusterVariance(differences, estimate.mean);
  const auto cluster_degrees = static_cast<double>(differences.size() - 1);
  double trained = 0, weighted = between * between / cluster_degrees;
  for (const SeedVariance& s : seeds) {
    trained += s.of_mean;
    if (s.degrees > 0) weighted += s.of_mean * s.of_mean / s.degrees;
  }
  if (trained <= 0) return;
  const double degrees = (between + trained) * (between + trained) / weighted;
  const double t = quantile(degrees), t_clusters = quantile(cluster_degrees);
  const auto widened = [&](double arm) { return t * std::sqrt(arm / t_clusters * (arm / t_clusters) + trained); };
  estimate.ci95 = {estimate.mean - widened(estimate.mean - estimate.ci95.low),
                   estimate.mean + widened(estimate.ci95.high - estimate.mean)};
  const double statistic = std::abs(estimate.mean) / std::sqrt(between + trained);
  const double p = 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(degrees), statistic));
  estimate.p = std::max(estimate.p, p);
}

}  // namespace

Result<std::vector<ClusterDifference>> PairedDifferences(std::span<const DocumentNll> a,
                                                         std::span<const DocumentNll> b) {
  std::map<uint64_t, const DocumentNll*> by_document;
  for (const DocumentNll& document : b) by_document[document.document] = &document;
  std::map<uint64_t, ClusterDifference> clusters;
  for (const DocumentNll& document : a) {
    const auto other = by_document.find(document.document);
    if (other == by_document.end() || other->second->tokens != document.tokens) {
      return Error{ErrorCode::kInvalidArgument,
                   "evaluation: two variants were not scored on the same tokens of document " +
                       std::to_string(document.document) + "; score them again together"};
    }
    ClusterDifference& cluster = clusters[document.cluster];
    cluster.cluster = document.cluster;
    cluster.difference_sum += document.nll_sum - other->second->nll_sum;
    cluster.tokens += document.tokens;
    by_document.erase(other);
  }
  if (!by_document.empty()) {
    return Error{ErrorCode::kInvalidArgument, "evaluation: a variant lacks document " +
                                                  std::to_string(by_document.begin()->first) +
                                                  " that another was scored on; score them again together"};
  }
  std::vector<ClusterDifference> differences;
  for (const auto& [id, cluster] : clusters) {
    if (cluster.tokens > 0) differences.push_back(cluster);
  }
  return differences;
}

double WeightedMean(std::span<const ClusterDifference> differences) {
  double sum = 0;
  uint64_t tokens = 0;
  for (const ClusterDifference& d : differences) {
    sum += d.difference_sum;
    tokens += d.tokens;
  }
  return tokens == 0 ? 0 : sum / static_cast<double>(tokens);
}

Interval BootstrapInterval(std::span<const ClusterDifference> differences, const StatisticsOptions& options) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const size_t n = differences.size();
  if (n < 2 || options.bootstrap_resamples == 0) return {-kInfinity, kInfinity};
  Random random(options.seed ^ 0x626F6F7473747261ull);
  std::vector<double> means(options.bootstrap_resamples);
  for (double& mean : means) {
    double sum = 0;
    uint64_t tokens = 0;
    for (size_t i = 0; i < n; ++i) {
      const ClusterDifference& drawn = differences[random.Below(n)];
      sum += drawn.difference_sum;
      tokens += drawn.tokens;
    }
    mean = sum / static_cast<double>(tokens);
  }
  std::sort(means.begin(), means.end());
  const double tail = ExpandedTail(n, 0.025);
  return {SortedQuantile(means, tail), SortedQuantile(means, 1 - tail)};
}

double SignFlipP(std::span<const ClusterDifference> differences, const StatisticsOptions& options) {
  std::vector<double> sums;
  double observed = 0, scale = 0;
  for (const ClusterDifference& d : differences) {
    if (d.difference_sum == 0) continue;  // its sign changes nothing
    sums.push_back(d.difference_sum);
    observed += d.difference_sum;
    scale += std::abs(d.difference_sum);
  }
  if (sums.empty()) return 1;
  // Sums of the same numbers in another order differ in their last bits; they count as equal.
  const double threshold = std::abs(observed) - 1e-9 * scale;
  if (sums.size() <= options.exact_permutation_clusters) return ExactSignFlipP(sums, threshold);
  return SampledSignFlipP(sums, threshold, options);
}

Estimate EstimateDifference(std::span<const ClusterDifference> differences, const StatisticsOptions& options,
                            std::span<const SeedVariance> seeds) {
  Estimate estimate;
  estimate.mean = WeightedMean(differences);
  estimate.ci95 = BootstrapInterval(differences, options);
  estimate.p = SignFlipP(differences, options);
  estimate.clusters = differences.size();
  for (const ClusterDifference& d : differences) estimate.tokens += d.tokens;
  if (!seeds.empty() && estimate.clusters > 1) WidenBySeeds(differences, seeds, estimate);
  return estimate;
}

std::optional<SeedVariance> VarianceOverSeeds(std::span<const double> means, size_t draws) {
  if (means.size() < 2 || draws == 0) return std::nullopt;
  const auto n = static_cast<double>(means.size());
  const double mean = std::accumulate(means.begin(), means.end(), 0.0) / n;
  double squares = 0;
  for (double m : means) squares += (m - mean) * (m - mean);
  return SeedVariance{squares / (n - 1) / static_cast<double>(draws), static_cast<uint32_t>(means.size() - 1)};
}

uint64_t ClustersFor(const Estimate& estimate, double wanted) {
  const double half = estimate.HalfWidth();
  if (!std::isfinite(half) || !(wanted > 0)) return 0;
  const double needed = std::ceil(static_cast<double>(estimate.clusters) * (half / wanted) * (half / wanted));
  return needed < 1e15 ? static_cast<uint64_t>(needed) : 0;
}

std::vector<double> HolmAdjust(std::span<const double> p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, static_cast<double>(order.size() - rank) * p_values[order[rank]]);
    adjusted[order[rank]] = std::min(1.0, largest);
  }
  return adjusted;
}

double SortedQuantile(const std::vector<double>& sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const size_t below = std::min(static_cast<size_t>(position), sorted.size() - 1);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return SortedQuantile(values, q);
}

}  // namespace pointsman
