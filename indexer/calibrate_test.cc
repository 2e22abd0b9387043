#include "indexer/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pointsman {
namespace {

// Related text has evidence around .8, unrelated around .3.
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

// Two overlapping domains, so that each quantile is another value.
GateSamples Overlapping() {
  GateSamples samples = TwoDomains();
  const auto count = static_cast<float>(samples.related.size());
  for (size_t i = 0; i < samples.related.size(); ++i) {
    for (float& v : samples.related[i]) v = 0.3f + 0.5f * static_cast<float>(i) / count;
    for (float& v : samples.unrelated[i]) v = 0.2f + 0.3f * static_cast<float>(i) / count;
  }
  return samples;
}

TEST(CalibrateTest, TheMostOpenHarmlessRampIsFound) {
  const GateSamples samples = Overlapping();
  int asked = 0;
  const auto harmless = [&](const OwnedGate& gate, const GateQuantiles&) -> Result<bool> {
    ++asked;
    return Openness(samples.unrelated, gate) < 0.02;
  };
  OwnedGate gate;
  const auto chosen = SetMostOpenRamp(samples, harmless, gate);
  ASSERT_TRUE(chosen.ok() && chosen.value().has_value());
  EXPECT_LE(asked, 20);
  EXPECT_LT(Openness(samples.unrelated, gate), 0.02);
  const double found = Openness(samples.related, gate);
  // By exhaustion over the same quantiles.
  double best = 0;
  for (double unrelated : {0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0}) {
    for (double related : {0.0, 0.25, 0.50, 0.75, 0.90}) {
      OwnedGate other;
      SetRamp(samples, {unrelated, related}, other);
      if (Openness(samples.unrelated, other) < 0.02) best = std::max(best, Openness(samples.related, other));
    }
  }
  EXPECT_DOUBLE_EQ(found, best);
}

TEST(CalibrateTest, WithoutAHarmlessRampTheTightestIsSet) {
  const GateSamples samples = Overlapping();
  OwnedGate gate, tightest;
  const auto chosen = SetMostOpenRamp(
      samples, [](const OwnedGate&, const GateQuantiles&) -> Result<bool> { return false; }, gate);
  ASSERT_TRUE(chosen.ok());
  EXPECT_FALSE(chosen.value().has_value());
  SetRamp(samples, {1.0, 0.90}, tightest);
  EXPECT_EQ(gate.lo, tightest.lo);
  EXPECT_EQ(gate.hi, tightest.hi);
}

TEST(CalibrateTest, SequencesThatStayShutAreNamed) {
  OwnedGate gate;
  gate.n0 = 0;
  gate.lo = 0.5f;
  const std::vector<std::vector<float>> evidence{{0.1f, 0.2f}, {0.1f, 0.95f}, {0.6f, 0.0f}, {}};
  EXPECT_EQ(OpenSequences(evidence, gate), (std::vector<size_t>{1, 2}));
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
