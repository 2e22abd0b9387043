#include "indexer/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>

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

// Mean G of the last token of each sequence.
double EndOpenness(const std::vector<std::vector<float>>& sequences, const OwnedGate& gate) {
  double sum = 0;
  for (const std::vector<float>& s : sequences) {
    double mean = gate.n0 * gate.prior;
    for (float v : s) mean += v;
    mean /= gate.n0 + static_cast<double>(s.size());
    sum += std::clamp((mean - gate.lo) / (gate.hi - gate.lo), 0.0, 1.0);
  }
  return sum / static_cast<double>(sequences.size());
}

TEST(CalibrateTest, TheLadderGoesFromOpenToShut) {
  // Overlapping domains, so that each quantile is another value.
  GateSamples samples = TwoDomains();
  for (size_t i = 0; i < samples.related.size(); ++i) {
    for (float& v : samples.related[i]) v = 0.3f + 0.5f * static_cast<float>(i) / samples.related.size();
    for (float& v : samples.unrelated[i]) v = 0.2f + 0.3f * static_cast<float>(i) / samples.related.size();
  }
  OwnedGate gate;
  const std::vector<GateQuantiles> ladder = GateLadder(samples, gate);
  ASSERT_GE(ladder.size(), 4u);
  double related = 2, unrelated = 2;
  for (const GateQuantiles& quantiles : ladder) {
    SetRamp(samples, quantiles, gate);
    EXPECT_LE(EndOpenness(samples.related, gate), related + 1e-9);
    EXPECT_LE(EndOpenness(samples.unrelated, gate), unrelated + 1e-9);
    related = EndOpenness(samples.related, gate);
    unrelated = EndOpenness(samples.unrelated, gate);
  }
  EXPECT_LT(unrelated, 1e-6) << "the tightest ramp shuts on all that was seen";
}

TEST(CalibrateTest, SequencesThatStayShutAreNamed) {
  OwnedGate gate;
  gate.n0 = 0;
  gate.lo = 0.5f;
  const std::vector<std::vector<float>> similarities{{0.1f, 0.2f}, {0.1f, 0.95f}, {0.6f, 0.0f}, {}};
  EXPECT_EQ(OpenSequences(similarities, gate), (std::vector<size_t>{1, 2}));
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
