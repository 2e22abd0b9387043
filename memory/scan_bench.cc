#include "memory/scan_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "memory/stopwatch.h"

namespace pointsman {
namespace {

constexpr size_t kStreamBytes = 256 << 20;  // several times the last-level cache of a large server's core complex
constexpr int kStreamPasses = 5;
constexpr size_t kMinCalls = 5;

// Sums every word in eight independent chains: as fast as the loads.
uint64_t ReadAll(std::span<const uint64_t> words) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= words.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

// A value that the compiler must compute.
void Keep(uint64_t value) { asm volatile("" : : "r"(value) : "memory"); }

std::vector<uint64_t> StreamBuffer() { return std::vector<uint64_t>(kStreamBytes / sizeof(uint64_t), 1); }

double TimeStream(std::span<const uint64_t> words) {
  const auto start = std::chrono::steady_clock::now();
  Keep(ReadAll(words));
  return SecondsSince(start);
}

double Median(std::vector<double>* times) {
  const auto middle = times->begin() + static_cast<ptrdiff_t>(times->size() / 2);
  std::nth_element(times->begin(), middle, times->end());
  return *middle;
}

std::vector<float> RandomUnitRows(size_t rows, uint32_t dim, std::mt19937_64* random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(rows * dim);
  for (size_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (uint32_t d = 0; d < dim; ++d) {
      values[r * dim + d] = normal(*random);
      squares += std::pow(double{values[r * dim + d]}, 2);
    }
    const auto inverse = static_cast<float>(1 / std::sqrt(squares));
    for (uint32_t d = 0; d < dim; ++d) values[r * dim + d] *= inverse;
  }
  return values;
}

// Share of the true k nearest among fp32 keys that the scan found, over the first queries of the batch.
double Recall(const ScanBenchSpec& spec, std::span<const float> keys, std::span<const float> queries,
              std::span<const Neighbour> found) {
  const size_t k = std::min<size_t>(spec.k, spec.keys);
  const size_t sample = std::min<size_t>(spec.batch, 4);
  size_t hits = 0;
  for (size_t t = 0; t < sample; ++t) {
    std::vector<std::pair<double, uint32_t>> all(spec.keys);
    for (uint32_t r = 0; r < spec.keys; ++r) {
      const double dot =
          std::inner_product(keys.begin() + size_t{r} * spec.dim, keys.begin() + (size_t{r} + 1) * spec.dim,
                             queries.begin() + t * spec.dim, 0.0);
      all[r] = {-dot, r};
    }
    std::partial_sort(all.begin(), all.begin() + static_cast<ptrdiff_t>(k), all.end());
    for (size_t i = 0; i < k; ++i) {
      hits += std::any_of(found.begin() + t * spec.k, found.begin() + t * spec.k + k,
                          [&](const Neighbour& neighbour) { return neighbour.row == all[i].second; });
    }
  }
  return static_cast<double>(hits) / static_cast<double>(sample * k);
}

}  // namespace

double MeasureReadBandwidth() {
  const std::vector<uint64_t> words = StreamBuffer();
  std::vector<double> passes;
  for (int pass = 0; pass < kStreamPasses; ++pass) passes.push_back(TimeStream(words));
  return kStreamBytes / *std::min_element(passes.begin(), passes.end()) / 1e9;
}

ScanBenchRun BenchScan(const ScanBenchSpec& spec) {
  std::mt19937_64 random(spec.seed);
  const std::vector<float> keys = RandomUnitRows(spec.keys, spec.dim, &random);
  const std::vector<float> queries = RandomUnitRows(spec.batch, spec.dim, &random);
  std::vector<int8_t> codes(keys.size());
  std::vector<float> scales(spec.keys);
  const auto build = std::chrono::steady_clock::now();
  QuantizeRows(keys, spec.dim, codes, scales);
  const double build_s = SecondsSince(build);
  const KeyIndexView view{spec.dim, spec.dim, spec.keys, {}, {}, codes, scales};
  std::vector<Neighbour> found(size_t{spec.batch} * spec.k);
  const std::vector<uint64_t> words = StreamBuffer();

  std::vector<double> streams, calls;
  const auto start = std::chrono::steady_clock::now();
  while (calls.size() < kMinCalls || SecondsSince(start) < spec.seconds) {
    streams.push_back(TimeStream(words));
    const auto call = std::chrono::steady_clock::now();
    SearchExactWith(spec.kernel, view, queries, spec.k, found);
    calls.push_back(SecondsSince(call));
  }

  ScanBenchRun run;
  run.spec = spec;
  run.kernel = ScanKernelName(spec.kernel);
  run.bytes_per_key = spec.dim + sizeof(float);
  run.bandwidth_gb_s = kStreamBytes / Median(&streams) / 1e9;
  run.seconds_per_call = Median(&calls);
  run.queries_per_s = spec.batch / run.seconds_per_call;
  const double gigabytes = run.bytes_per_key * static_cast<double>(spec.keys) / 1e9;
  run.gb_s = gigabytes / run.seconds_per_call;
  run.bandwidth_ratio = run.seconds_per_call / (gigabytes / run.bandwidth_gb_s);
  run.build_s = build_s;
  run.recall = Recall(spec, keys, queries, found);
  return run;
}

}  // namespace pointsman
