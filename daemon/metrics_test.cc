#include "daemon/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

namespace pointsman {
namespace {

TEST(MetricsTest, RendersTheTextFormat) {
  MetricRegistry registry;
  registry.AddCounter("pointsman_rows_total", "Rows.\nAll of them.", {{"memory", "a\"b\\c"}}).Add(3);
  registry.AddGauge("pointsman_open", "Open.").Set(-0.5);
  Histogram& seconds = registry.AddHistogram("pointsman_seconds", "Time.", {0.1, 1}, {{"route", "/x"}});
  for (const double value : {0.05, 0.1, 0.5, 7.0}) seconds.Observe(value);
  EXPECT_EQ(registry.Render(),
            "# HELP pointsman_open Open.\n# TYPE pointsman_open gauge\npointsman_open -0.5\n"
            "# HELP pointsman_rows_total Rows.\\nAll of them.\n# TYPE pointsman_rows_total counter\n"
            "pointsman_rows_total{memory=\"a\\\"b\\\\c\"} 3\n"
            "# HELP pointsman_seconds Time.\n# TYPE pointsman_seconds histogram\n"
            "pointsman_seconds_bucket{route=\"/x\",le=\"0.1\"} 2\npointsman_seconds_bucket{route=\"/x\",le=\"1\"} 3\n"
            "pointsman_seconds_bucket{route=\"/x\",le=\"+Inf\"} 4\npointsman_seconds_sum{route=\"/x\"} 7.65\n"
            "pointsman_seconds_count{route=\"/x\"} 4\n");
}

TEST(MetricsTest, TheSameNameAndLabelsAreTheSameMetric) {
  MetricRegistry registry;
  Counter& first = registry.AddCounter("a_total", "A.", {{"x", "1"}});
  EXPECT_EQ(&first, &registry.AddCounter("a_total", "A.", {{"x", "1"}}));
  EXPECT_NE(&first, &registry.AddCounter("a_total", "A.", {{"x", "2"}}));
}

TEST(MetricsTest, RemoveDropsTheSamplesOfOneLabelValue) {
  MetricRegistry registry;
  registry.AddCounter("a_total", "A.", {{"memory", "one"}});
  registry.AddCounter("a_total", "A.", {{"memory", "one-more"}});
  registry.AddGauge("b", "B.", {{"kind", "x"}, {"memory", "one"}});
  registry.Remove("memory", "one");
  EXPECT_EQ(registry.Render(), "# HELP a_total A.\n# TYPE a_total counter\na_total{memory=\"one-more\"} 0\n");
}

TEST(MetricsTest, CountsOfManyThreadsAddUp) {
  MetricRegistry registry;
  Counter& counter = registry.AddCounter("a_total", "A.");
  Histogram& histogram = registry.AddHistogram("h", "H.", LatencyBuckets());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        counter.Add();
        histogram.Observe(0.5);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), 40'000);
  EXPECT_EQ(histogram.count(), 40'000u);
  EXPECT_EQ(histogram.sum(), 20'000);
}

TEST(HistogramTest, QuantilesAreLinearInsideABucket) {
  Histogram histogram({1, 2, 4});
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  for (int i = 0; i < 10; ++i) histogram.Observe(0.5);
  for (int i = 0; i < 10; ++i) histogram.Observe(1.5);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.25), 0.5);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.5), 1.0);
  EXPECT_DOUBLE_EQ(histogram.Quantile(0.75), 1.5);
  histogram.Observe(100);
  EXPECT_DOUBLE_EQ(histogram.Quantile(1), 4);  // beyond the last bound nothing is known
}

TEST(ProcessMetricsTest, AreOfThisProcess) {
  MetricRegistry registry;
  AddProcessMetrics(registry);
  const std::string text = registry.Render();
  const auto value = [&](const std::string& name) {
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? NAN : std::strtod(text.c_str() + at + name.size() + 2, nullptr);
  };
  EXPECT_GT(value("process_resident_memory_bytes"), 1e6);
  EXPECT_GE(value("process_open_fds"), 3);
  EXPECT_GE(value("process_cpu_seconds_total"), 0);
  EXPECT_NEAR(value("process_start_time_seconds"), static_cast<double>(std::time(nullptr)), 3600);
}

}  // namespace
}  // namespace pointsman
