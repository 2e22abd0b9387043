#include "indexer/evaluation/leakage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using ::testing::HasSubstr;

class TextOfTinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyModel(directory_.path(), {});
    auto loaded = Tokenizer::Load(directory_.path() / "tokenizer.json");
    ASSERT_TRUE(loaded.ok());
    tokenizer_ = std::move(loaded.value());
  }
  // `words` numbered words from `first` on: no two ranges share one.
  Document Of(const std::string& name, int first, int words) const {
    std::string text;
    for (int i = first; i < first + words; ++i) {
      for (int rest = i + 1; rest > 0; rest /= 26) text += static_cast<char>('a' + rest % 26);
      text += i % 12 == 11 ? '\n' : ' ';
    }
    Document d;
    d.source = name;
    d.hash = std::hash<std::string>()(name);
    d.tokens = tokenizer_->Encode(text);
    return d;
  }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  testing::TemporaryDirectory directory_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(TextOfTinyModel, NearDuplicatesAcrossTheSetsAreNamedWorstFirst) {
  const std::vector<Document> test = {Of("clean", 0, 300), Of("copy", 1000, 300), Of("half", 2000, 300)};
  const std::vector<Document> reference = {Of("original", 1000, 300), Of("other half", 2120, 300),
                                           Of("third", 3000, 300)};
  const TextOverlap overlap = FindOverlap(tokenizer(), test, reference);
  EXPECT_EQ(overlap.documents, 3u);
  EXPECT_EQ(overlap.reference_documents, 3u);
  EXPECT_EQ(overlap.near_duplicates, 1u);
  ASSERT_EQ(overlap.worst.size(), 2u);  // a shared .6 of each is a Jaccard of .43: notable, no near-duplicate
  EXPECT_EQ(overlap.worst[0].document, "copy");
  EXPECT_EQ(overlap.worst[0].reference, "original");
  EXPECT_DOUBLE_EQ(overlap.worst[0].similarity, 1.0);
  EXPECT_EQ(overlap.worst[1].document, "half");
  EXPECT_NEAR(overlap.worst[1].similarity, 0.43, 0.13);
}

TEST_F(TextOfTinyModel, LongRunsAreCountedToTheToken) {
  Document test = Of("test", 0, 300), reference = Of("reference", 5000, 300);
  const size_t before = test.tokens.size(), run = kRepeatedRun + 7;
  const std::vector<int32_t> copied(reference.tokens.begin() + 20, reference.tokens.begin() + 20 + run);
  // What stands before and after the copy must differ from what stands there in the reference.
  test.tokens[29] = reference.tokens[19] + 1;
  test.tokens[30] = reference.tokens[20 + run] + 1;
  test.tokens.insert(test.tokens.begin() + 30, copied.begin(), copied.end());
  const std::vector<Document> tests = {test, Of("clean", 9000, 300)}, references = {reference};
  const auto masks = RepeatedTokens(tests, references);
  ASSERT_EQ(masks[0].size(), before + run);
  EXPECT_EQ(masks[0][29], 0);
  EXPECT_EQ(masks[0][30], 1);
  EXPECT_EQ(masks[0][30 + run - 1], 1);
  EXPECT_EQ(masks[0][30 + run], 0);
  EXPECT_EQ(std::accumulate(masks[1].begin(), masks[1].end(), 0), 0);
  const TextOverlap overlap = FindOverlap(tokenizer(), tests, references);
  EXPECT_EQ(overlap.repeated_tokens, run);
  EXPECT_EQ(overlap.longest_run, run);
  EXPECT_EQ(overlap.repeated_documents, 1u);

  Document shorter = Of("shorter", 0, 300);
  shorter.tokens[29] = test.tokens[29];
  shorter.tokens[30] = reference.tokens[20 + kRepeatedRun - 1] + 1;
  shorter.tokens.insert(shorter.tokens.begin() + 30, copied.begin(), copied.begin() + kRepeatedRun - 1);
  EXPECT_EQ(FindOverlap(tokenizer(), std::vector{shorter}, references).repeated_tokens, 0u);
}

TEST(LeakageNotesTest, SayWhatWasFoundAndWhatItMeans) {
  LeakageReport report;
  EXPECT_TRUE(LeakageNotes(report).empty());
  report.test = {20, 40, 2, {{"a.h", "b.h", 0.75}}, 1000, 100, 3, 80};
  report.gain_without_repeated = Estimate{.mean = -0.1, .ci95 = {-0.2, -0.05}};
  report.unrelated = {20, 40, 1, {{"c.txt", "d.h", 0.5}}, 1000, 0, 0, 0};
  const std::vector<std::string> notes = LeakageNotes(report);
  ASSERT_EQ(notes.size(), 4u);
  EXPECT_THAT(notes[0], HasSubstr("2 near-duplicate pairs between your test text"));
  EXPECT_THAT(notes[0], HasSubstr("a.h and b.h (0.75)"));
  EXPECT_THAT(notes[1], HasSubstr("10.0% of the tokens of your test text (3 of 20 documents)"));
  EXPECT_THAT(notes[2], HasSubstr("without the repeated tokens the memory's gain is -0.1000 (-0.2000 to -0.0500)"));
  EXPECT_THAT(notes[3], HasSubstr("damage there is measured too low"));
}

}  // namespace
}  // namespace pointsman
