// Statistics of a paired comparison: the same test tokens scored twice, differences summed per document, intervals and
// p-values clustered by near-duplicate cluster (tokens of one document are not independent).
//
// All functions are deterministic for a given seed, on any machine (own generator), and use one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "memory/result.h"

namespace pointsman {

// One scored document under one variant.
struct DocumentNll {
  uint64_t document = 0;  // Document::hash
  uint64_t cluster = 0;   // Document::cluster
  double nll_sum = 0;     // nats, summed over the scored tokens
  uint64_t tokens = 0;    // scored tokens
};

// One cluster's share of a paired comparison.
struct ClusterDifference {
  uint64_t cluster = 0;
  double difference_sum = 0;  // nats, summed over tokens: variant minus reference
  uint64_t tokens = 0;
};

struct Interval {
  double low = 0;
  double high = 0;
};

struct StatisticsOptions {
  uint64_t seed = 0;
  uint32_t bootstrap_resamples = 2000;
  uint32_t permutations = 10000;
  // With at most this many clusters, all 2^n sign patterns are counted instead of sampled.
  uint32_t exact_permutation_clusters = 16;
};

// The part of a figure's variance that another training of the same recipe would bring.
struct SeedVariance {
  double of_mean = 0;    // nats per token, squared: the variance of what is compared (a mean over seeds, or one draw)
  uint32_t degrees = 0;  // of freedom: seeds - 1
  bool operator==(const SeedVariance&) const = default;
};

struct Estimate {
  double mean = 0;  // nats per token, token-weighted
  Interval ci95;    // cluster bootstrap, see BootstrapInterval
  double p = 1;     // two-sided, see SignFlipP
  uint64_t clusters = 0;
  uint64_t tokens = 0;
  double HalfWidth() const { return (ci95.high - ci95.low) / 2; }
};

// Differences a - b per cluster, ascending by cluster. Both must hold the same documents with the same token counts, in
// any order; kInvalidArgument otherwise (an unpaired comparison is a bug that must not become a number).
Result<std::vector<ClusterDifference>> PairedDifferences(std::span<const DocumentNll> a,
                                                         std::span<const DocumentNll> b);

// sum of differences / sum of tokens; 0 without tokens.
double WeightedMean(std::span<const ClusterDifference> differences);

// 95 % bootstrap interval of the weighted mean: clusters are drawn with replacement, each draw's mean is a ratio of
// sums; percentiles are widened for small samples by Student's t (Hesterberg 2015, "expanded percentile interval"). One
// cluster or none has no interval: [-inf, inf].
Interval BootstrapInterval(std::span<const ClusterDifference> differences, const StatisticsOptions& options);

// Two-sided sign-flip permutation test of "the mean is 0": the share of sign patterns whose absolute mean is at least
// the observed. Exact for few clusters; else (hits + 1) / (permutations + 1).
double SignFlipP(std::span<const ClusterDifference> differences, const StatisticsOptions& options);

// All three at once. With `seeds`, the estimate is of the recipe and not of one training: each arm of the interval
// becomes t * sqrt((arm / t_clusters)^2 + sum of seed variances), with Satterthwaite's (1946) degrees of freedom, and p
// is the larger of the sign-flip test's and the t test's that goes with that interval.
Estimate EstimateDifference(std::span<const ClusterDifference> differences, const StatisticsOptions& options,
                            std::span<const SeedVariance> seeds = {});

// Sample variance of the means that several seeds gave; nothing with fewer than two. `draws` is how many of them the
// compared figure is the mean of (1: one training stands for all).
std::optional<SeedVariance> VarianceOverSeeds(std::span<const double> means, size_t draws);

// How many clusters would bring the interval's half-width down to `wanted`, from the half-width that there is: it falls
// with the root of their number. 0 where nothing can be said (no finite interval, wanted <= 0).
uint64_t ClustersFor(const Estimate& estimate, double wanted);

// Holm (1979) step-down: adjusted p-values in the order given.
std::vector<double> HolmAdjust(std::span<const double> p_values);

// Linear interpolation between order statistics (type 7, numpy's default). REQUIRES: values not empty, q in [0, 1].
double Quantile(std::vector<double> values, double q);
double SortedQuantile(const std::vector<double>& sorted, double q);  // the same of ascending values

}  // namespace pointsman
