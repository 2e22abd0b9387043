#include "indexer/evaluation/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "indexer/evaluation/test_report.h"

namespace pointsman {
namespace {

using testing::HasSubstr;
using testing::Not;

nlohmann::json Golden(const std::string& name) {
  std::ifstream file(std::string(POINTSMAN_SOURCE_DIR) + "/schemas/examples/" + name);
  return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
}

// tests/test_report_schemas.py validates the same files against schemas/, so the shapes cannot part.
TEST_F(AdoptedMemory, JsonIsTheGoldenReport) {
  EXPECT_EQ(ToJson(report_), Golden("eval.json")) << ToJson(report_).dump(2);
}

TEST(ProbeReportTest, JsonIsTheGoldenReport) {
  ProbeReport report;
  report.tokens = 4096;
  report.documents = 32;
  report.headroom = 1.25;
  report.ci95 = {1.125, 1.375};
  report.layers = {{0, 0.5, {0.375, 0.625}}, {3, 0.25, {0.125, 0.375}}};
  report.transfer = 0.0625;
  report.transfer_ci95 = {0.03125, 0.09375};
  report.advice = Advice::kBuild;
  EXPECT_EQ(ToJson(report), Golden("probe.json")) << ToJson(report).dump(2);
  EXPECT_THAT(ToTable(report), HasSubstr("lower the loss by 1.2500 nats per token (95% interval 1.1250 to 1.3750)"));
  EXPECT_THAT(ToTable(report), HasSubstr("\n  3                              0.2500  0.1250 to 0.3750\n"));
  EXPECT_THAT(ToTable(report), testing::StartsWith("Worth building: "));
  report.advice = Advice::kUnsure;
  EXPECT_THAT(ToTable(report), testing::StartsWith("Unsure: "));
  report.advice = Advice::kInVain;
  EXPECT_THAT(ToTable(report), HasSubstr("even ideal routing would gain less than the 0.01 nats"));
  report.equal_experts = true;
  EXPECT_THAT(ToTable(report), HasSubstr("the experts of every layer are equal"));
}

TEST(PlanReportTest, JsonIsTheGoldenReport) {
  const PlanReport report{100000, 2500000000, 312.5, 40000000, 1500000};
  EXPECT_EQ(ToJson(report), Golden("plan.json")) << ToJson(report).dump(2);
  EXPECT_EQ(ToTable(report),
            "A build from 100,000 tokens would take about 5 min 13 s and 2.5 GB of memory,\n"
            "and write 40.0 MB of truth (documents and entries) and 1.5 MB of derived index (what routing reads).\n");
}

TEST_F(AdoptedMemory, WithoutABreakdownItsMemberIsAbsent) {
  EXPECT_TRUE(ToJson(report_).contains("breakdown"));
  report_.breakdown.reset();
  EXPECT_FALSE(ToJson(report_).contains("breakdown"));
}

TEST_F(AdoptedMemory, TableShowsATaskOnlyWhereOneWasAsked) {
  EXPECT_THAT(ToTable(report_, false), HasSubstr("\nTask: likeliest choice, 200 items; a guess is right in 25.0%.\n"));
  EXPECT_THAT(ToTable(report_, false),
              HasSubstr("  variant  accuracy  95% interval  difference   95% interval       p  wins  losses\n"
                        "  frozen       25.0  18.8 to 31.2           -              -       -     -       -\n"
                        "  memory       37.5  31.2 to 43.8       +12.5  +6.2 to +18.8  <0.001    30       5\n"));
  report_.tasks[0].samples = 8;
  EXPECT_THAT(ToTable(report_, false), HasSubstr("200 items, majority of 8 samples each; a guess"));
  report_.tasks.clear();
  EXPECT_THAT(ToTable(report_, false), Not(HasSubstr("Task: ")));
  EXPECT_FALSE(ToJson(report_).contains("tasks"));
}

TEST_F(AdoptedMemory, DominatedByIsNullOrAName) {
  EXPECT_TRUE(ToJson(report_)["dominated_by"].is_null());
  report_.dominated_by = "knn_lm";
  EXPECT_EQ(ToJson(report_)["dominated_by"], "knn_lm");
}

TEST_F(AdoptedMemory, TableHasAlignedColumnsAndExplainsThem) {
  const std::string table = ToTable(report_, false);
  EXPECT_THAT(table,
              HasSubstr("Verdict: adopt: this memory makes the model better on your text by 0.2500 nats per token.\n"));
  EXPECT_THAT(table,
              HasSubstr("Your text: 412 documents, 98,304 tokens that no variant has seen; made from 310 documents, "
                        "30,000 tokens; look 2 at this test split.\n"));
  EXPECT_THAT(
      table,
      HasSubstr("  variant              loss     gain        95% interval   minus memory, 95%       p  share\n"
                "  frozen             3.5000        -                   -  +0.2000 to +0.3000       -      -\n"
                "  memory             3.2500  -0.2500  -0.3000 to -0.2000                   -  <0.001    50%\n"
                "  full_finetune      3.0000  -0.5000  -0.6250 to -0.3750  -0.3750 to -0.1250  <0.001   100%\n"
                "  random_neighbours  3.5625  +0.0625                   -                   -       -      -\n"));
  EXPECT_THAT(
      table,
      HasSubstr(
          "  variant             damage        95% interval  untouched  identical  build s  ms/token  bytes/token\n"
          "  frozen                   -                   -     100.0%     100.0%        -       0.5            -\n"
          "  memory             +0.0003  -0.0005 to +0.0010      96.9%      87.5%      120       0.5        1,235\n"));
  EXPECT_THAT(table, HasSubstr("\nNotes:\n  * 12 of 412"));
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
}

TEST_F(AdoptedMemory, GeneratedTextHasItsOwnTableWhereItWasMeasured) {
  EXPECT_THAT(
      ToTable(report_, false),
      HasSubstr(
          "  variant           temp   tokens    match      minus frozen  prefix  repeated      distinct 1, 2, 3\n"
          "  frozen          greedy     2560    12.5%                 -    1.50     25.0%     0.250 0.500 0.625\n"
          "  memory+output     0.75     2500    25.0%     +6.2 to +18.8    3.25     12.5%     0.250 0.625 0.750\n"
          "  truth                -     2560        -                 -       -      6.2%     0.500 0.750 0.875\n"));
  report_.generation.clear();
  EXPECT_THAT(ToTable(report_, false), Not(HasSubstr("Generated text")));
  EXPECT_FALSE(ToJson(report_).contains("generation"));
}

TEST_F(AdoptedMemory, TableWarnsOfStaleAndDominatedMemories) {
  report_.stale = true;
  report_.dominated_by = "knn_lm";
  report_.unrelated_documents = 0;
  const std::string table = ToTable(report_, false);
  EXPECT_THAT(table, HasSubstr("run pointsman eval again"));
  EXPECT_THAT(table, HasSubstr("A cheaper variant is better on this text: knn_lm."));
  EXPECT_THAT(table, HasSubstr("none was given, so damage is unknown"));
}

TEST_F(AdoptedMemory, ColorMarksTheVerdictAndTheMemoryOnly) {
  const std::string table = ToTable(report_, true);
  EXPECT_THAT(table, HasSubstr("Verdict: \x1b[1;32madopt\x1b[0m: "));
  EXPECT_THAT(table, HasSubstr("\x1b[1m  memory "));
  EXPECT_THAT(table, Not(HasSubstr("\x1b[1m  full_finetune")));
  report_.verdict = Decision::kReject;
  EXPECT_THAT(ToTable(report_, true), HasSubstr("\x1b[1;31mreject\x1b[0m"));
}

TEST(KindOfTest, NamesDecide) {
  EXPECT_EQ(KindOf("memory"), VariantKind::kMemory);
  EXPECT_EQ(KindOf("memory+rewiring"), VariantKind::kRival);
  EXPECT_EQ(KindOf("knn+gate"), VariantKind::kRival);
  EXPECT_EQ(KindOf("frozen"), VariantKind::kReferencePoint);
  EXPECT_EQ(KindOf("oracle"), VariantKind::kReferencePoint);
  EXPECT_EQ(KindOf("shuffled_values"), VariantKind::kControl);
}

}  // namespace
}  // namespace pointsman
