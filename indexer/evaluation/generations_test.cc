#include "indexer/evaluation/generations.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "adapt/testing/tiny_text.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

using Texts = std::vector<std::vector<int32_t>>;

TEST(RepeatedShareTest, CountsGramsThatTheSameTextHadBefore) {
  EXPECT_DOUBLE_EQ(RepeatedShare(Texts{{1, 2, 3, 4, 5, 6}}, 4), 0);
  EXPECT_DOUBLE_EQ(RepeatedShare(Texts{{7, 7, 7, 7, 7, 7}}, 4), 2.0 / 3);
  // Another text's grams are not this one's; the parts add up: 0 of 1 and 2 of 3.
  EXPECT_DOUBLE_EQ(RepeatedShare(Texts{{7, 7, 7, 7}, {7, 7, 7, 7, 7, 7}}, 4), 2.0 / 4);
  EXPECT_DOUBLE_EQ(RepeatedShare(Texts{{1, 2, 3}}, 4), 0);
}

TEST(DistinctShareTest, CountsGramsOverAllTexts) {
  const Texts texts{{1, 2, 1, 2}, {1, 2}};
  EXPECT_DOUBLE_EQ(DistinctShare(texts, 1), 2.0 / 6);
  EXPECT_DOUBLE_EQ(DistinctShare(texts, 2), 2.0 / 4);
  EXPECT_DOUBLE_EQ(DistinctShare(texts, 3), 2.0 / 2);
  EXPECT_DOUBLE_EQ(DistinctShare({}, 1), 0);
}

// Documents of 40 tokens, but one of 20, whose second half is too short.
class TestText : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    text_.sequences = testing::PredictableText(12, 40, 1);
    for (Sequence& s : text_.sequences) {
      Document document;
      document.hash = 100 + s.document;
      document.cluster = s.group;
      text_.documents.push_back(document);
    }
    Sequence& cut = text_.sequences[3];
    cut.inputs.resize(20);
    cut.targets.resize(20);
    text_.sequences.push_back(text_.sequences[5]);  // a document's second window is not asked for
  }
  ScoredText text_;
};

TEST_F(TestText, GivesAPromptForEachDocumentThatIsLongEnough) {
  const auto prompts = MakePrompts(text_, 100);
  ASSERT_EQ(prompts.size(), 11u);
  const Sequence& s = text_.sequences[4];
  EXPECT_EQ(prompts[3].document, 104u);
  EXPECT_EQ(prompts[3].prompt, std::vector<int32_t>(s.inputs.begin(), s.inputs.begin() + 20));
  ASSERT_EQ(prompts[3].truth.size(), 21u);
  EXPECT_EQ(prompts[3].truth.front(), s.inputs[20]);  // what follows the prompt
  EXPECT_EQ(prompts[3].truth.back(), s.targets.back());
  const auto some = MakePrompts(text_, 4);
  ASSERT_EQ(some.size(), 4u);
  EXPECT_EQ(some[1].document, prompts[2].document);  // spread over all of them
}

TEST_F(TestText, ScoresCompareWithHowDocumentsGoOn) {
  const auto prompts = MakePrompts(text_, 2);
  Texts texts{prompts[0].truth, prompts[1].truth};
  texts[0][3] += 1;     // a prefix of 3, one of 16 wrong
  texts[1].resize(10);  // ended early: 6 of 16 missing
  const GenerationScore score = ScoreTexts(prompts, texts);
  EXPECT_DOUBLE_EQ(score.match.value(), (15.0 + 10) / 32);
  EXPECT_DOUBLE_EQ(score.prefix.value(), (3.0 + 10) / 2);
  EXPECT_EQ(score.tokens, 31u);
  const GenerationScore truth = ScoreTruth(prompts);
  EXPECT_EQ(truth.variant, "truth");
  EXPECT_EQ(truth.tokens, 42u);
  EXPECT_FALSE(truth.match.has_value());
}

TEST_F(TestText, AnIntervalOfMatchesIsPairedByDocument) {
  const auto prompts = MakePrompts(text_, 100);
  Texts right, wrong;
  for (const GenerationPrompt& p : prompts) {
    right.push_back(p.truth);
    wrong.push_back(p.truth);
    for (int32_t& token : wrong.back()) token += 1;
  }
  const auto better = CompareMatches(prompts, right, wrong, 0);
  ASSERT_TRUE(better.ok());
  EXPECT_DOUBLE_EQ(better.value().low, 1);
  EXPECT_DOUBLE_EQ(better.value().high, 1);
  EXPECT_LT(CompareMatches(prompts, wrong, right, 0).value().high, 0);
}

TEST_F(TestText, ContinuationsDependOnTheTablesAndTheSeedNotOnThreads) {
  const auto model = testing::LoadTinyModel();
  ASSERT_NE(model, nullptr);
  const auto prompts = MakePrompts(text_, 6);
  const auto continued = [&](const std::shared_ptr<const RoutingTables>& tables, GenerationOptions options) {
    auto texts = Continue(*model, prompts, tables, options);
    EXPECT_TRUE(texts.ok()) << texts.error().message;
    return std::move(texts).value();
  };
  const Texts greedy = continued(nullptr, {});
  EXPECT_EQ(continued(nullptr, {.threads = 3}), greedy);
  const Texts sampled = continued(nullptr, {.temperature = 1});
  EXPECT_EQ(continued(nullptr, {.temperature = 1, .threads = 2}), sampled);
  EXPECT_NE(continued(nullptr, {.temperature = 1, .seed = 1}), sampled);
  EXPECT_NE(sampled, greedy);

  // An output memory that knows one next token: with this weight it is always the likeliest.
  OwnedTables owned;
  owned.output = {.enabled = true, .vocabulary = 263, .k = 1, .tau = 0.1f, .lambda = 0.9f};
  owned.output.keys.hidden = owned.output.keys.dim = static_cast<uint32_t>(model->config().hidden_size);
  std::vector<float> key(model->config().hidden_size);
  key.front() = 1;
  owned.output.keys.SetKeys(key);
  owned.output.next_tokens = {77};
  const Texts voted = continued(MakeTables(owned), {});
  for (size_t i = 0; i < voted.size(); ++i) EXPECT_EQ(voted[i], std::vector<int32_t>(prompts[i].truth.size(), 77));
  owned.output.vocabulary = 264;  // a memory of another model
  const auto refused = Continue(*model, prompts, MakeTables(owned), {});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("vocabulary has 264"), std::string::npos);
}

}  // namespace
}  // namespace pointsman
