#include "indexer/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pointsman {
namespace {

// Related text has evidence around .8, unrelated around .3.
GateSamples TwoDomains() {
  GateSamples samples;
  for (int i = 0; i < 20; ++i) {
    SequenceEvidence related, unrelated;
    for (int t = 0; t < 50; ++t) {
      const float wobble = 0.05f * static_cast<float>((i * 7 + t * 3) % 11 - 5) / 5.0f;
      related.values.push_back(0.8f + wobble);
      unrelated.values.push_back(0.3f + wobble);
    }
    samples.related.push_back(related);
    samples.unrelated.push_back(unrelated);
  }
  return samples;
}

TEST(CalibrateTest, TheRampLiesBetweenTheDomains) {
  OwnedGate gate;
  SetRamp(TwoDomains(), {0.95, 0.10}, gate);
  const GateGroup& group = gate.groups.front();
  EXPECT_NEAR(group.prior, 0.3f, 0.01f);
  EXPECT_GT(group.lo, 0.29f);
  EXPECT_LT(group.lo, 0.36f);
  EXPECT_GT(group.hi, 0.5f);  // the prior's weight pulls early means down
  EXPECT_LT(group.hi, 0.81f);
}

// Two overlapping domains, so that each quantile is another value.
GateSamples Overlapping() {
  GateSamples samples = TwoDomains();
  const auto count = static_cast<float>(samples.related.size());
  for (size_t i = 0; i < samples.related.size(); ++i) {
    for (float& v : samples.related[i].values) v = 0.3f + 0.5f * static_cast<float>(i) / count;
    for (float& v : samples.unrelated[i].values) v = 0.2f + 0.3f * static_cast<float>(i) / count;
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
  EXPECT_EQ(gate.groups, tightest.groups);
}

TEST(CalibrateTest, SequencesThatStayShutAreNamed) {
  OwnedGate gate;
  gate.n0 = 0;
  gate.groups[0].lo = 0.5f;
  const std::vector<SequenceEvidence> evidence{
      {.values = {0.1f, 0.2f}}, {.values = {0.1f, 0.95f}}, {.values = {0.6f, 0.0f}}, {}};
  EXPECT_EQ(OpenSequences(evidence, gate), (std::vector<size_t>{1, 2}));
}

TEST(CalibrateTest, DomainsThatCannotBeToldApartStillGiveARamp) {
  GateSamples samples = TwoDomains();
  samples.related = samples.unrelated;
  OwnedGate gate;
  SetRamp(samples, {0.99, 0.10}, gate);
  EXPECT_GE(gate.groups[0].hi, gate.groups[0].lo + kMinRamp * 0.99f);
}

// Two domains whose evidence differs in level: sums around .9, logs around .55; unrelated text around .3, with a tail
// of texts that read like one of them.
GateSamples TwoGroups() {
  GateSamples samples;
  for (int i = 0; i < 100; ++i) {
    SequenceEvidence sums{.group = 0, .values = {}}, logs{.group = 1, .values = {}}, unrelated;
    const float tail = 0.004f * static_cast<float>(i);
    for (int t = 0; t < 50; ++t) {
      const float wobble = 0.05f * static_cast<float>((i * 7 + t * 3) % 11 - 5) / 5.0f;
      for (float value : {0.9f + wobble, 0.3f + wobble}) sums.values.push_back(value);
      for (float value : {0.2f + wobble, 0.55f + wobble}) logs.values.push_back(value);
      for (float value : {0.3f + tail + wobble, 0.7f - tail + wobble}) unrelated.values.push_back(value);
    }
    if (i < 20) {
      samples.related.push_back(sums);
      samples.related.push_back(logs);
    }
    samples.unrelated.push_back(unrelated);
  }
  return samples;
}

TEST(CalibrateTest, EachGroupHasARampOfItsOwnAndAllTogetherOneGroupsShareOfUnrelatedText) {
  const GateSamples samples = TwoGroups();
  OwnedGate gate;
  gate.groups = {{.name = "sums"}, {.name = "logs"}};
  for (const double quantile : {0.9, 0.98}) {
    SetRamp(samples, {quantile, 0.25}, gate);
    EXPECT_NE(gate.groups[0].prior, gate.groups[1].prior);
    EXPECT_GT(gate.groups[0].hi, gate.groups[1].hi);  // sums are more sure of themselves
    EXPECT_GT(Openness(samples.related, gate), 0.3);
    for (GateGroup& group : gate.groups) group.hi = group.lo + 1e-6f;  // then openness is the share that is open
    EXPECT_GT(Openness(samples.unrelated, gate), 0.2 * (1 - quantile));
    EXPECT_LE(Openness(samples.unrelated, gate), 1 - quantile);
  }
}

// G of every token of a group's samples, as a ramp of 1.
std::vector<double> OpennessOfEach(const std::vector<SequenceEvidence>& samples, const OwnedGate& gate) {
  std::vector<double> open;
  for (const SequenceEvidence& one : samples) open.push_back(Openness(std::span(&one, 1), gate));
  return open;
}

// What the search among ramps rests on.
TEST(CalibrateTest, MoreUnrelatedTextMakesNoGroupsRampBeginLaterAndASofterOneOpensNothing) {
  const GateSamples samples = TwoGroups();
  OwnedGate gate;
  gate.groups = {{.name = "sums"}, {.name = "logs"}};
  constexpr double kUnrelated[] = {1.0, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.985, 0.98, 0.9, 0.8};
  for (const double related : {0.0, 0.25, 0.9}) {
    std::vector<GateGroup> before;
    std::vector<double> open_before(samples.unrelated.size(), 0.0);
    for (const double unrelated : kUnrelated) {
      SetRamp(samples, {unrelated, related}, gate);
      const std::vector<double> open = OpennessOfEach(samples.unrelated, gate);
      for (size_t j = 0; j < before.size(); ++j) EXPECT_LE(gate.groups[j].lo, before[j].lo) << unrelated;
      for (size_t i = 0; i < open.size(); ++i) EXPECT_GE(open[i], open_before[i]) << unrelated << " " << i;
      before = gate.groups;
      open_before = open;
    }
    // At the lo of any share a larger `related` opens no text wider.
    OwnedGate softer = gate;
    SetRamp(samples, {kUnrelated[7], related}, gate);
    SetRamp(samples, {kUnrelated[7], related + 0.1}, softer);
    const auto steep = OpennessOfEach(samples.unrelated, gate), soft = OpennessOfEach(samples.unrelated, softer);
    for (size_t i = 0; i < soft.size(); ++i) EXPECT_LE(soft[i], steep[i]);
  }
}

TEST(CalibrateTest, TheMostOpenHarmlessRampOfTwoGroupsIsFound) {
  const GateSamples samples = TwoGroups();
  const auto shut_enough = [&](const OwnedGate& gate) { return Openness(samples.unrelated, gate) < 0.0005; };
  OwnedGate gate, other;
  gate.groups = other.groups = {{.name = "sums"}, {.name = "logs"}};
  const auto harmless = [&](const OwnedGate& tried, const GateQuantiles&) -> Result<bool> {
    return shut_enough(tried);
  };
  const auto chosen = SetMostOpenRamp(samples, harmless, gate);
  ASSERT_TRUE(chosen.ok() && chosen.value().has_value());
  double best = 0, loosest = 0;
  for (double unrelated : {0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0}) {
    for (double related : {0.0, 0.25, 0.50, 0.75, 0.90}) {
      SetRamp(samples, {unrelated, related}, other);
      loosest = std::max(loosest, Openness(samples.related, other));
      if (shut_enough(other)) best = std::max(best, Openness(samples.related, other));
    }
  }
  EXPECT_DOUBLE_EQ(Openness(samples.related, gate), best);
  EXPECT_LT(best, loosest);  // the bound excludes something
}

TEST(CalibrateTest, EveryGroupCountsAlikeHoweverMuchTextItHas) {
  OwnedGate gate;
  gate.n0 = 0;
  gate.groups[0] = {.name = "", .prior = 0, .lo = 0.0f, .hi = 1.0f};
  const std::vector<SequenceEvidence> samples{{.group = 0, .values = {1, 1, 1, 1, 1, 1}},
                                              {.group = 3, .values = {0, 0}}};
  EXPECT_DOUBLE_EQ(Openness(samples, gate), 0.5);
}

Sequence Text(uint32_t document, std::vector<int32_t> tokens) {
  Sequence s;
  s.document = document;
  s.targets.assign(tokens.begin() + 1, tokens.end());
  tokens.pop_back();
  s.inputs = std::move(tokens);
  s.mask.assign(s.targets.size(), 1);
  return s;
}

TEST(CalibrateTest, PairsAreMarkedWithTheGroupsThatHaveThem) {
  const std::vector<Sequence> reference{Text(0, {1, 2, 3}), Text(1, {2, 3, 4})}, unrelated{Text(0, {3, 4, 9})};
  const DocumentGroups groups{.names = {"a", "b"}, .of = {0, 1}};
  const auto gate = MakeGate(reference, unrelated, groups, {});
  ASSERT_TRUE(gate.ok());
  const auto pair = [](uint64_t previous, uint64_t token) { return previous << 32 | token; };
  EXPECT_EQ(gate.value().pairs, (std::vector<uint64_t>{pair(1, 2), pair(2, 3), pair(3, 4)}));
  EXPECT_EQ(gate.value().pair_groups, (std::vector<uint16_t>{1, 3, 2}));
  EXPECT_EQ(gate.value().is_common, (std::vector<uint8_t>{0, 0, 1}));
  const std::vector<Sequence> text{Text(1, {1, 2, 3, 4})};
  const GateSamples samples = SampleGate(gate.value(), text, {}, groups);
  EXPECT_EQ(samples.related[0].group, 1u);
  // The first token has none before it: the prior, 0 as yet.
  EXPECT_EQ(samples.related[0].values, (std::vector<float>{0, 0, 1, 0, 1, 1}));
}

}  // namespace
}  // namespace pointsman
