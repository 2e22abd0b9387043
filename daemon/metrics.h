// Counters, gauges and histograms in Prometheus' text format (exposition format 0.0.4). A metric is registered once, at
// start; updating one is an atomic operation. Any thread.
//
//   MetricRegistry registry;
//   Counter& hits = registry.AddCounter("pointsman_route_rows_total", "Rows routed.", {{"memory", name}});
//   hits.Add(16);
//   registry.Render()   // for GET /metrics
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pointsman {

using Labels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  void Add(double amount = 1);  // REQUIRES: amount >= 0
  double value() const;

 private:
  std::atomic<double> value_{0};
};

class Gauge {
 public:
  void Set(double value);
  void Add(double amount);
  double value() const;

 private:
  std::atomic<double> value_{0};
};

class Histogram {
 public:
  explicit Histogram(std::vector<double> upper_bounds);  // ascending; +Inf is added
  void Observe(double value);
  uint64_t count() const;
  double sum() const;
  // Linear inside the bucket where the quantile lies, as Prometheus' histogram_quantile; 0 without observations.
  double Quantile(double q) const;
  const std::vector<double>& upper_bounds() const { return upper_bounds_; }
  std::vector<uint64_t> CumulativeCounts() const;  // one more than bounds: the last is +Inf

 private:
  std::vector<double> upper_bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_{0};
};

// 1 ms .. 60 s: for latencies in seconds.
std::vector<double> LatencyBuckets();

class MetricRegistry {
 public:
  MetricRegistry();
  ~MetricRegistry();

  // The same name and labels give the same metric. REQUIRES: Prometheus' name rules; a name keeps its kind and help.
  // References live as long as the registry or until Remove.
  Counter& AddCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram& AddHistogram(const std::string& name, const std::string& help, std::vector<double> upper_bounds,
                          const Labels& labels = {});
  // Asked at each Render: values that something else owns (resident memory, open descriptors).
  void AddCallback(const std::string& name, const std::string& help, const std::string& kind, const Labels& labels,
                   std::function<double()> value);

  // Drops every sample that has this label and value; references to them end. REQUIRES: nobody uses them any more.
  void Remove(const std::string& label, const std::string& value);

  // All samples, or those whose labels `shown` lets through; callbacks of the others are not asked.
  std::string Render(const std::function<bool(const Labels&)>& shown = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// process_resident_memory_bytes, process_open_fds, process_cpu_seconds_total, process_start_time_seconds.
void AddProcessMetrics(MetricRegistry& registry);

}  // namespace pointsman
