#include "indexer/evaluation/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pointsman {
namespace {

using testing::HasSubstr;

Estimate Of(double low, double high, uint64_t clusters = 50) {
  Estimate estimate;
  estimate.mean = (low + high) / 2;
  estimate.ci95 = {low, high};
  estimate.clusters = clusters;
  return estimate;
}

const Estimate kClearGain = Of(-0.30, -0.20);
const Estimate kNoDamage = Of(-0.0002, 0.0006);

TEST(DecideTest, AdoptsAClearGainWithoutDamage) {
  const Verdict verdict = Decide(kClearGain, kNoDamage, {});
  EXPECT_EQ(verdict.decision, Decision::kAdopt);
  EXPECT_EQ(
      verdict.reason,
      "this memory makes the model better on your text by 0.2500 nats per token (95% interval 0.2000 to 0.3000) and "
      "does no measurable damage elsewhere (+0.0002, at most +0.0006)");
}

TEST(DecideTest, TheGainMustPassTheMargin) {
  EXPECT_EQ(Decide(Of(-0.03, -0.0101), kNoDamage, {}).decision, Decision::kAdopt);
  EXPECT_EQ(Decide(Of(-0.03, -0.01), kNoDamage, {}).decision, Decision::kInconclusive);
  EXPECT_EQ(Decide(Of(-0.01, 0.01), kNoDamage, {}).decision, Decision::kInconclusive);
  EXPECT_EQ(Decide(Of(-0.0099, 0.01), kNoDamage, {}).decision, Decision::kReject);
  EXPECT_EQ(Decide(Of(-0.03, -0.0101), kNoDamage, {.min_gain = 0.02}).decision, Decision::kInconclusive);
}

TEST(DecideTest, TheDamageMustStayBelowItsBound) {
  EXPECT_EQ(Decide(kClearGain, Of(0.0001, 0.002), {}).decision, Decision::kInconclusive);
  EXPECT_EQ(Decide(kClearGain, Of(0.0021, 0.01), {}).decision, Decision::kReject);
  EXPECT_EQ(Decide(kClearGain, Of(-0.2, -0.1), {}).decision, Decision::kAdopt);  // better elsewhere too
  EXPECT_EQ(Decide(kClearGain, Of(0.0001, 0.002), {.damage_bound = 0.01}).decision, Decision::kAdopt);
}

TEST(DecideTest, WithoutUnrelatedTextNothingIsAdopted) {
  const Verdict verdict = Decide(kClearGain, std::nullopt, {});
  EXPECT_EQ(verdict.decision, Decision::kInconclusive);
  EXPECT_THAT(verdict.reason, HasSubstr("--off-domain"));
  EXPECT_EQ(Decide(Of(0.1, 0.2), std::nullopt, {}).decision, Decision::kReject);
}

TEST(DecideTest, FewDocumentsGiveNoVerdict) {
  EXPECT_EQ(Decide(Of(-0.3, -0.2, 19), kNoDamage, {}).decision, Decision::kInconclusive);
  EXPECT_EQ(Decide(Of(0.1, 0.2, 19), kNoDamage, {}).decision, Decision::kInconclusive);
  EXPECT_THAT(Decide(kClearGain, Of(0, 0, 3), {}).reason, HasSubstr("only 3 independent unrelated documents"));
  EXPECT_EQ(Decide(Of(-0.3, -0.2, 19), Of(0, 0, 5), {.min_clusters = 5}).decision, Decision::kAdopt);
}

TEST(DecideTest, EqualExpertsAreNeverAdopted) {
  const Verdict verdict = Decide(kClearGain, kNoDamage, {.equal_experts = true});
  EXPECT_EQ(verdict.decision, Decision::kReject);
  EXPECT_THAT(verdict.reason, HasSubstr("the experts of every layer are equal"));
}

TEST(DecideTest, SaysHowManyDocumentsAreMissing) {
  EXPECT_EQ(Decide(Of(-0.3, -0.2, 12), kNoDamage, {}).reason,
            "only 12 independent test documents were scored; a verdict needs 20: give 8 more");
  // Half-width .02 around -.02, the threshold is .01 away: the interval must be half as wide, four times the documents.
  const Verdict wide = Decide(Of(-0.04, 0.0, 30), kNoDamage, {});
  EXPECT_EQ(wide.decision, Decision::kInconclusive);
  EXPECT_THAT(wide.reason, HasSubstr("about 120 independent test documents would tell, 90 more"));
  EXPECT_THAT(Decide(Of(-0.0401, 0.02, 30), kNoDamage, {}).reason, HasSubstr("too near the threshold"));
}

TEST(DecideTest, SaysWhenTheUnrelatedTextCannotResolveTheBound) {
  const Verdict coarse = Decide(kClearGain, Of(-0.004, 0.004, 25), {});
  EXPECT_EQ(coarse.decision, Decision::kInconclusive);
  EXPECT_THAT(coarse.reason,
              testing::AllOf(HasSubstr("cannot resolve such a bound"),
                             HasSubstr("about 100 independent unrelated documents would tell, 75 more")));
  const Verdict damaged = Decide(kClearGain, Of(0.001, 0.0022, 25), {});
  EXPECT_EQ(damaged.decision, Decision::kInconclusive);
  EXPECT_THAT(damaged.reason, testing::Not(HasSubstr("cannot resolve")));
}

TEST(DecideTest, NothingTouchedIsNotNothingPossible) {
  EXPECT_NEAR(UntouchedBound(60), 3.0 / 60, 0.002);  // the rule of three
  EXPECT_DOUBLE_EQ(UntouchedBound(1), 0.95);
  EXPECT_DOUBLE_EQ(UntouchedBound(0), 1.0);
}

class DominationTest : public testing::Test {
 protected:
  static VariantScore Variant(const char* name, double nll, double bytes, double build_s) {
    VariantScore v;
    v.name = name;
    v.nll = nll;
    v.bytes_per_token = bytes;
    v.build_s = build_s;
    v.damage = 0.0001;
    v.damage_ci95 = Interval{-0.0005, 0.0006};
    return v;
  }
  VariantScore memory_ = Variant("memory", 4.0, 500, 100);
};

TEST_F(DominationTest, NamesTheBestCheaperBetterVariant) {
  VariantScore bias = Variant("bias+gate", 3.9, 0, 10);
  bias.vs_memory = Interval{-0.12, -0.05};
  VariantScore prototypes = Variant("prototypes", 3.8, 500, 50);  // as large, but built sooner
  prototypes.vs_memory = Interval{-0.3, -0.1};
  EXPECT_EQ(DominatedBy(std::vector{memory_, bias, prototypes}, {}), "prototypes");
  EXPECT_EQ(DominatedBy(std::vector{bias, memory_}, {}), "bias+gate");
}

TEST_F(DominationTest, NeitherDearerNorUnprovenNorHarmfulVariantsDominate) {
  VariantScore dearer = Variant("entries", 3.8, 900, 50);  // built sooner, but larger
  dearer.vs_memory = Interval{-0.3, -0.1};
  VariantScore unproven = Variant("bias+gate", 3.9, 0, 10);
  unproven.vs_memory = Interval{-0.2, 0.001};
  VariantScore harmful = Variant("router_finetune", 3.7, 0, 10);
  harmful.vs_memory = Interval{-0.4, -0.2};
  harmful.damage_ci95 = Interval{0.1, 0.2};
  VariantScore unmeasured = Variant("knn_lm", 3.5, 10, 10);
  unmeasured.vs_memory = Interval{-0.6, -0.4};
  unmeasured.damage_ci95.reset();
  VariantScore reference = Variant("full_finetune", 3.0, 0, 10);
  reference.vs_memory = Interval{-1.1, -0.9};
  EXPECT_EQ(DominatedBy(std::vector{memory_, dearer, unproven, harmful, unmeasured, reference}, {}), "");
  EXPECT_EQ(DominatedBy(std::vector{harmful}, {}), "");  // no memory
}

TEST_F(DominationTest, TheOtherKindIsNamedWhereItIsBetterAndLarger) {
  VariantScore entries = Variant("entries", 3.8, 5000, 50);
  entries.vs_memory = Interval{-0.3, -0.1};
  EXPECT_THAT(DearerKind(std::vector{memory_, entries}, {}),
              testing::AllOf(HasSubstr("entries would be better than this memory by 0.1000 to 0.3000"),
                             HasSubstr("10 times the bytes"), HasSubstr("--kind entries")));
  VariantScore harmful = entries;
  harmful.damage_ci95 = Interval{0.1, 0.2};
  VariantScore unproven = entries;
  unproven.vs_memory = Interval{-0.3, 0.1};
  EXPECT_EQ(DearerKind(std::vector{memory_, harmful}, {}), "");
  EXPECT_EQ(DearerKind(std::vector{memory_, unproven}, {}), "");
  EXPECT_EQ(DearerKind(std::vector{entries}, {}), "");
}

TEST(ControlsTest, SilentWhenMemoryBeatsThemAndTheyDoNotBeatBias) {
  EXPECT_TRUE(
      CheckControls(std::vector<ControlInterval>{{"random_neighbours", Interval{-0.01, 0.02}, Interval{0.1, 0.3}},
                                                 {"shuffled_values", std::nullopt, std::nullopt}})
          .empty());
}

TEST(ControlsTest, NamesTheControlThatBreaksItsPromise) {
  const auto broken =
      CheckControls(std::vector<ControlInterval>{{"random_neighbours", Interval{-0.05, -0.02}, Interval{0.1, 0.3}},
                                                 {"shuffled_values", Interval{0.01, 0.02}, Interval{-0.01, 0.05}}});
  ASSERT_EQ(broken.size(), 2u);
  EXPECT_THAT(broken[0], HasSubstr("random_neighbours beats bias by 0.0200 to 0.0500"));
  EXPECT_THAT(broken[1], HasSubstr("memory does not beat control shuffled_values"));
}

}  // namespace
}  // namespace pointsman
