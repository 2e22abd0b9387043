#include "memory/scan_bench.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(BenchScan, FiguresOfOneRunAgreeWithEachOther) {
  ScanBenchSpec spec;
  spec.keys = 2000;
  spec.dim = 48;
  spec.batch = 3;
  spec.seconds = 0;
  const ScanBenchRun run = BenchScan(spec);
  EXPECT_STREQ(run.kernel, ScanKernelName(ScanKernel::kAuto));
  EXPECT_EQ(run.bytes_per_key, 52);
  EXPECT_GT(run.seconds_per_call, 0);
  EXPECT_NEAR(run.queries_per_s * run.seconds_per_call, 3, 1e-9);
  EXPECT_NEAR(run.gb_s * run.bandwidth_ratio, run.bandwidth_gb_s, 1e-6);
  EXPECT_GE(run.recall, 0.9);
  EXPECT_LE(run.recall, 1.0);
}

TEST(MeasureReadBandwidth, IsOfTheOrderOfARealMachine) {
  const double gb_s = MeasureReadBandwidth();
  EXPECT_GT(gb_s, 0.3);
  EXPECT_LT(gb_s, 2000);
}

}  // namespace
}  // namespace pointsman
