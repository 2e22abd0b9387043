#include "indexer/evaluation/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

using testing::HasSubstr;
using testing::Not;

// A report with every kind of variant, and absent figures in every place where they may be absent.
class AdoptedMemory : public testing::Test {
 protected:
  AdoptedMemory() {
    report_.verdict = Decision::kAdopt;
    report_.reason = "this memory makes the model better on your text by 0.2500 nats per token";
    report_.documents = 412;
    report_.tokens = 98304;
    report_.unrelated_documents = 120;
    report_.unrelated_tokens = 40960;
    report_.reference_documents = 310;
    report_.reference_tokens = 30000;
    report_.test_looks = 2;

    VariantScore frozen;
    frozen.name = "frozen";
    frozen.nll = 3.5;
    frozen.vs_memory = Interval{0.2, 0.3};
    frozen.damage = 0;
    frozen.untouched_tokens = frozen.identical_documents = 1;
    frozen.seconds_per_token = 0.0005;

    VariantScore memory = frozen;
    memory.name = "memory";
    memory.nll = 3.25;
    memory.gain = -0.25;
    memory.ci95 = Interval{-0.3, -0.2};
    memory.vs_memory.reset();
    memory.p = 0.0004;
    memory.share = 0.5;
    memory.damage = 0.00025;
    memory.damage_ci95 = Interval{-0.0005, 0.001};
    memory.untouched_tokens = 0.96875;
    memory.identical_documents = 0.875;
    memory.build_s = 120;
    memory.bytes_per_token = 1234.5;

    VariantScore full;
    full.name = "full_finetune";
    full.nll = 3;
    full.gain = -0.5;
    full.ci95 = Interval{-0.625, -0.375};
    full.vs_memory = Interval{-0.375, -0.125};
    full.p = 0.0004;
    full.share = 1;
    full.damage = 0.75;
    full.damage_ci95 = Interval{0.5, 1};
    full.untouched_tokens = full.identical_documents = 0;
    full.seeds = 3;
    full.seed_sd = 0.125;

    VariantScore control;
    control.name = "random_neighbours";
    control.nll = 3.5625;
    control.gain = 0.0625;
    control.ci95 = Interval{-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    report_.variants = {frozen, memory, full, control};
    report_.leakage = LeakageReport{
        {412, 340, 1, {{"a.h", "b.h", 0.625}}, 98304, 512, 4, 200}, {120, 340, 0, {}, 40960, 0, 0, 0}, 12, {}};
    report_.leakage->gain_without_repeated = Estimate{.mean = -0.1875, .ci95 = {-0.25, -0.125}};
    GenerationScore greedy{.variant = "frozen",
                           .temperature = 0.0,
                           .prompts = 40,
                           .tokens = 2560,
                           .match = 0.125,
                           .match_vs_frozen = std::nullopt,
                           .prefix = 1.5,
                           .repeated_4grams = 0.25,
                           .distinct = {0.25, 0.5, 0.625}};
    GenerationScore sampled{.variant = "memory+output",
                            .temperature = 0.75,
                            .prompts = 40,
                            .tokens = 2500,
                            .match = 0.25,
                            .match_vs_frozen = Interval{0.0625, 0.1875},
                            .prefix = 3.25,
                            .repeated_4grams = 0.125,
                            .distinct = {0.25, 0.625, 0.75}};
    GenerationScore truth{.variant = "truth",
                          .temperature = std::nullopt,
                          .prompts = 40,
                          .tokens = 2560,
                          .match = std::nullopt,
                          .match_vs_frozen = std::nullopt,
                          .prefix = std::nullopt,
                          .repeated_4grams = 0.0625,
                          .distinct = {0.5, 0.75, 0.875}};
    report_.generation = {greedy, sampled, truth};
    report_.notes = {"12 of 412 test documents are near-duplicates of <reference> documents"};
  }
  EvalReport report_;
};

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
          "  memory+output     0.75     2500    25.0%    +6.2 to +18.8    3.25     12.5%     0.250 0.625 0.750\n"
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

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

TEST_F(AdoptedMemory, HtmlIsOneEscapedPageWithoutExternalResources) {
  const std::string html = ToHtml(report_, "Memory <of> C++ & more");
  EXPECT_THAT(html, HasSubstr("<title>Memory &lt;of&gt; C++ &amp; more</title>"));
  EXPECT_THAT(html, HasSubstr("near-duplicates of &lt;reference&gt; documents"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme:dark"));
  for (const char* external : {"http:", "https:", "src=", "url(", "<script", "<link", "@import"}) {
    EXPECT_THAT(html, Not(HasSubstr(external)));
  }
  for (const char* element : {"svg", "g", "table", "tr", "td", "div", "ul", "li", "body", "html"}) {
    const std::string name = element;
    EXPECT_EQ(Count(html, "<" + name + ">") + Count(html, "<" + name + " "), Count(html, "</" + name + ">")) << name;
  }
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("\"inf")));
}

TEST_F(AdoptedMemory, PlotHasADotForEachFigure) {
  // Gain of memory, full_finetune and the control; damage of memory and full_finetune.
  EXPECT_EQ(Count(ToHtml(report_, "t"), "<circle"), 5u);
  EXPECT_THAT(ToHtml(report_, "t"), HasSubstr("<title>-0.2500 (-0.3000 to -0.2000)</title>"));
  report_.variants.resize(1);  // frozen alone: axes without dots, and no division by an empty range
  const std::string html = ToHtml(report_, "t");
  EXPECT_EQ(Count(html, "<circle"), 0u);
  EXPECT_THAT(html, Not(HasSubstr("nan")));
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
