#include "indexer/calibrate.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

// Related text has similarities around .8, unrelated around .3.
GateSamples TwoDomains() {
  GateSamples samples;
  for (int i = 0; i < 20; ++i) {
    std::vector<float> related, unrelated;
    for (int t = 0; t < 50; ++t) {
      const float wobble = 0.05f * static_cast<float>((i * 7 + t * 3) % 11 - 5) / 5.0f;
      related.push_back(0.8f + wobble);
      unrelated.push_back(0.3f + wobble);
    }
    samples.related.push_back(related);
    samples.unrelated.push_back(unrelated);
  }
  return samples;
}

TEST(CalibrateTest, TheRampLiesBetweenTheDomains) {
  OwnedGate gate;
  SetRamp(TwoDomains(), {0.95, 0.10}, gate);
  EXPECT_NEAR(gate.prior, 0.3f, 0.01f);
  EXPECT_GT(gate.lo, 0.29f);
  EXPECT_LT(gate.lo, 0.36f);
  EXPECT_GT(gate.hi, 0.5f);  // the prior's weight pulls early means down
  EXPECT_LT(gate.hi, 0.81f);
}

TEST(CalibrateTest, EachRungOfTheLadderIsTighter) {
  OwnedGate gate;
  float lo = -1, hi = -1;
  for (const GateQuantiles& quantiles : GateLadder()) {
    SetRamp(TwoDomains(), quantiles, gate);
    EXPECT_GE(gate.lo, lo);
    EXPECT_GE(gate.hi, hi);
    lo = gate.lo;
    hi = gate.hi;
  }
}

TEST(CalibrateTest, DomainsThatCannotBeToldApartStillGiveARamp) {
  GateSamples samples = TwoDomains();
  samples.related = samples.unrelated;
  OwnedGate gate;
  SetRamp(samples, {0.99, 0.10}, gate);
  EXPECT_GE(gate.hi, gate.lo + kMinRamp * 0.99f);
}

}  // namespace
}  // namespace pointsman
