#include "indexer/evaluation/scoring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace pointsman {
namespace {

using testing::Contains;
using testing::HasSubstr;

// 60 test documents and 40 unrelated ones of 100 tokens; a variant changes the loss of a token by its mean, give or
// take `spread`, with the same ups and downs for every variant.
std::vector<DocumentNll> Scored(uint64_t first, uint64_t documents, double change, double spread) {
  std::vector<DocumentNll> scored;
  for (uint64_t i = 0; i < documents; ++i) {
    const double wobble = spread * std::sin(static_cast<double>(i * 7919 + first));
    scored.push_back({first + i, first + i, 100 * (3.0 + 0.1 * static_cast<double>(i % 5) + change + wobble), 100});
  }
  return scored;
}

VariantRun Variant(const std::string& name, double gain, double damage, double spread = 0.02) {
  VariantRun run;
  run.name = name;
  run.test = Scored(0, 60, gain, gain == 0 ? 0 : spread);
  run.unrelated = Scored(1000, 40, damage, damage == 0 ? 0 : damage / 4);
  return run;
}

const VariantScore& Score(const EvalReport& report, const std::string& name) {
  for (const VariantScore& v : report.variants) {
    if (v.name == name) return v;
  }
  static const VariantScore none;
  ADD_FAILURE() << "no variant " << name;
  return none;
}

class EvaluatedMemory : public testing::Test {
 protected:
  EvaluatedMemory() {
    memory_.bytes_per_token = 500;
    memory_.build_s = 60;
    memory_.touched = TouchCounts{4000, 3900, 40, 38};
  }
  EvalReport Report(const std::vector<VariantRun>& runs) {
    auto report = MakeReport(runs, {});
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
    return report.ok() ? report.value() : EvalReport{};
  }
  VariantRun frozen_ = Variant("frozen", 0, 0);
  VariantRun memory_ = Variant("memory", -0.2, 0.0004);
  VariantRun bias_ = Variant("bias", -0.02, 0.01);
  VariantRun full_ = Variant("full_finetune", -0.5, 0.8);
};

TEST_F(EvaluatedMemory, NamesTheWindowThatWasMadeWorst) {
  frozen_.test_sequences = {{300, 100}, {150, 50}, {30, 10}, {240, 80}};
  memory_.test_sequences = {{290, 100}, {155, 50}, {60, 10}, {244, 80}};  // the third is too short to tell
  const EvalReport report = Report({frozen_, memory_});
  const std::optional<WorstSequence> worst = Score(report, "memory").worst;
  ASSERT_TRUE(worst.has_value());
  EXPECT_NEAR(worst->change, 0.1, 1e-12);
  EXPECT_EQ(worst->tokens, 50u);
  EXPECT_FALSE(Score(report, "memory").worst_unrelated.has_value());
  EXPECT_FALSE(Score(report, "frozen").worst.has_value());
}

TEST_F(EvaluatedMemory, IsAdoptedWithItsFigures) {
  const EvalReport report = Report({frozen_, bias_, full_, memory_});
  EXPECT_EQ(report.verdict, Decision::kAdopt);
  EXPECT_EQ(report.documents, 60u);
  EXPECT_EQ(report.tokens, 6000u);
  EXPECT_EQ(report.unrelated_documents, 40u);
  EXPECT_TRUE(report.notes.empty());

  const VariantScore& memory = Score(report, "memory");
  EXPECT_NEAR(memory.nll, 3.0, 0.01);
  EXPECT_NEAR(memory.gain, -0.2, 0.005);
  EXPECT_LT(memory.ci95->high, -0.19);
  EXPECT_NEAR(*memory.share, memory.gain / Score(report, "full_finetune").gain, 1e-12);
  EXPECT_NEAR(*memory.damage, 0.0004, 0.0001);
  EXPECT_FALSE(memory.vs_memory.has_value());
  EXPECT_DOUBLE_EQ(*memory.untouched_tokens, 0.975);
  EXPECT_DOUBLE_EQ(*memory.identical_documents, 0.95);
  EXPECT_NEAR(*memory.p, 3.0 / 10001, 1e-12);  // the smallest p that 10,000 permutations allow, times three comparisons

  const VariantScore& frozen = Score(report, "frozen");
  EXPECT_FALSE(frozen.ci95.has_value());
  EXPECT_FALSE(frozen.p.has_value());
  EXPECT_FALSE(frozen.share.has_value());
  EXPECT_GT(frozen.vs_memory->low, 0.19);
  EXPECT_LT(Score(report, "full_finetune").vs_memory->high, 0);
}

TEST_F(EvaluatedMemory, IsTheSameForTheSameSeed) {
  const EvalReport first = Report({frozen_, memory_}), again = Report({frozen_, memory_});
  EXPECT_EQ(Score(first, "memory").ci95->low, Score(again, "memory").ci95->low);
}

TEST_F(EvaluatedMemory, IsRejectedForItsDamage) {
  const EvalReport report = Report({frozen_, Variant("memory", -0.2, 0.02)});
  EXPECT_EQ(report.verdict, Decision::kReject);
  EXPECT_THAT(report.reason, HasSubstr("unrelated text"));
}

TEST_F(EvaluatedMemory, IsNotAdoptedWithoutUnrelatedText) {
  frozen_.unrelated.clear();
  memory_.unrelated.clear();
  const EvalReport report = Report({frozen_, memory_});
  EXPECT_EQ(report.verdict, Decision::kInconclusive);
  EXPECT_FALSE(Score(report, "memory").damage.has_value());
}

TEST_F(EvaluatedMemory, IsDominatedByACheaperBetterVariant) {
  VariantRun rival = Variant("prototypes", -0.3, 0.0004);
  rival.bytes_per_token = 50;
  EXPECT_EQ(Report({frozen_, memory_, rival}).dominated_by, "prototypes");
}

TEST_F(EvaluatedMemory, ControlsThatBreakTheirPromiseBecomeNotes) {
  const auto notes = Report({frozen_, bias_, memory_, Variant("random_neighbours", -0.1, 0.01)}).notes;
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_THAT(notes[0], HasSubstr("random_neighbours beats bias"));
  EXPECT_THAT(Report({frozen_, memory_, Variant("shuffled_values", -0.2, 0.01)}).notes,
              Contains(HasSubstr("memory does not beat control shuffled_values")));
}

TEST_F(EvaluatedMemory, AVariantOnOtherTokensIsMeasuredFromItsOwnBaseline) {
  VariantRun half = Variant("frozen_second_half", 0, 0), rewiring = Variant("rewiring", -0.05, 0.01);
  half.test.resize(30);
  rewiring.test.resize(30);
  rewiring.baseline = half.name;
  half.baseline = half.name;
  const EvalReport report = Report({frozen_, memory_, half, rewiring});
  EXPECT_NEAR(Score(report, "rewiring").gain, -0.05, 0.01);
  EXPECT_FALSE(Score(report, "rewiring").vs_memory.has_value());
  EXPECT_FALSE(Score(report, "frozen_second_half").ci95.has_value());
}

// A variant trained with three seeds, whose gains are `gain` and two others.
VariantRun OverSeeds(const std::string& name, double gain, double second, double third) {
  VariantRun run = Variant(name, gain, 0.0004);
  for (double other : {second, third}) {
    VariantRun again = Variant(name, other, 0.0004);
    run.other_seeds.push_back({again.test, again.unrelated});
  }
  return run;
}

TEST_F(EvaluatedMemory, SeedsAreAveragedAndTheirSpreadWidensTheIntervals) {
  const EvalReport one = Report({frozen_, memory_, Variant("bias", -0.1, 0.0004)});
  const EvalReport three = Report({frozen_, memory_, OverSeeds("bias", -0.10, -0.04, -0.16)});
  const VariantScore& single = Score(one, "bias");
  const VariantScore& mean = Score(three, "bias");
  EXPECT_EQ(single.seeds, 1u);
  EXPECT_FALSE(single.seed_sd.has_value());
  EXPECT_EQ(mean.seeds, 3u);
  EXPECT_NEAR(*mean.seed_sd, 0.06, 1e-6);
  EXPECT_NEAR(mean.gain, single.gain, 1e-6);  // -.1 is the mean of the three
  EXPECT_GT(mean.ci95->high - mean.ci95->low, 5 * (single.ci95->high - single.ci95->low));
  EXPECT_GT(mean.vs_memory->high - mean.vs_memory->low, 5 * (single.vs_memory->high - single.vs_memory->low));
  EXPECT_THAT(three.notes,
              Contains(HasSubstr("bias: mean of 3 seeds; the gain's standard deviation between seeds is 0.0600")));
}

TEST_F(EvaluatedMemory, RivalsAreComparedWithWhatAnotherBuildOfTheMemoryWouldGive) {
  const VariantRun kind = OverSeeds("prototypes", -0.2, -0.1, -0.3);
  const EvalReport known = Report({frozen_, bias_, memory_, kind});
  memory_.recipe = "prototypes";
  const EvalReport report = Report({frozen_, bias_, memory_, kind});
  EXPECT_GT(Score(report, "bias").vs_memory->high, Score(known, "bias").vs_memory->high + 0.1);
  EXPECT_EQ(Score(report, "memory").ci95->high, Score(known, "memory").ci95->high);  // the verdict is on this memory
  EXPECT_EQ(report.verdict, Decision::kAdopt);
}

TEST_F(EvaluatedMemory, SeedsOnOtherDocumentsAreRefused) {
  VariantRun broken = OverSeeds("bias", -0.1, -0.1, -0.1);
  broken.other_seeds[1].test.pop_back();
  const auto report = MakeReport(std::vector{frozen_, memory_, broken}, {});
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(report.error().message, HasSubstr("not scored on the same documents"));
}

TEST_F(EvaluatedMemory, NothingTouchedIsSaidWithItsBound) {
  memory_.touched = TouchCounts{4000, 4000, 40, 40};
  memory_.unrelated = frozen_.unrelated;
  EXPECT_THAT(Report({frozen_, memory_}).notes, Contains(HasSubstr("with 40 of them, up to 7.2% of such documents")));
}

TEST_F(EvaluatedMemory, MissingBaselinesAreErrorsThatNameThem) {
  const std::vector<VariantRun> no_frozen = {memory_};
  EXPECT_THAT(MakeReport(no_frozen, {}).error().message, HasSubstr("no variant named frozen"));
  memory_.baseline = "frozen_elsewhere";
  const std::vector<VariantRun> lost = {frozen_, memory_};
  EXPECT_THAT(MakeReport(lost, {}).error().message, HasSubstr("memory is measured from frozen_elsewhere"));
  memory_.baseline = "frozen";
  memory_.test.pop_back();
  const std::vector<VariantRun> unpaired = {frozen_, memory_};
  EXPECT_EQ(MakeReport(unpaired, {}).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(EvaluatedMemory, WithoutAMemoryThereIsNoVerdict) {
  const EvalReport report = Report({frozen_, bias_});
  EXPECT_EQ(report.verdict, Decision::kInconclusive);
  EXPECT_THAT(report.reason, HasSubstr("--memory"));
}

TEST_F(EvaluatedMemory, SummaryForTheManifest) {
  const EvalReport report = Report({frozen_, memory_});
  const VerdictSummary summary = Summarize(report);
  EXPECT_EQ(summary.verdict, "adopt");
  EXPECT_EQ(summary.test_documents, 60u);
  EXPECT_EQ(summary.gain_high, Score(report, "memory").ci95->high);
  EXPECT_EQ(summary.damage_low, Score(report, "memory").damage_ci95->low);
}

}  // namespace
}  // namespace pointsman
