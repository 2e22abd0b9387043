// Breakdown, trace and passages on a tiny random model with a random memory: their sums must be the scored sums.
#include "indexer/evaluation/examination.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "adapt/testing/tiny_text.h"
#include "indexer/corpus.h"
#include "indexer/evaluation/passages.h"
#include "indexer/evaluation/routing_trace.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

using ::testing::HasSubstr;

// Twelve documents of two kinds, in byte tokens, under a memory whose gate is half open.
class ScoredDocuments : public ::testing::Test {
 protected:
  ScoredDocuments() : model_(testing::LoadTinyModel()) {
    const MoeConfig& config = model_->config();
    tables_ =
        testing::RandomTables(static_cast<uint32_t>(config.hidden_size), static_cast<uint32_t>(config.num_experts),
                              static_cast<uint32_t>(config.num_layers), testing::GateState::kHalfOpen);
    std::vector<Document> documents;
    for (uint32_t i = 0; i < 12; ++i) {
      Document d;
      d.hash = 100 + i;
      d.cluster = 100 + i / 2;
      d.source = i % 3 == 0 ? "lib/a/" + std::to_string(i) + ".md" : "lib/b/" + std::to_string(i) + ".h";
      d.role = SplitRole::kTest;
      std::string text = "int main(42); // Gr\xc3\xbc\xc3\x9f e " + std::to_string(i * 7919);
      for (uint32_t n = 0; n < 2 + i; ++n) text += "\nfor x" + std::to_string(n * i) + " in {std::list} do;";
      d.tokens = model_->tokenizer().Encode(text);
      documents.push_back(std::move(d));
    }
    documents[1].loss_mask.assign(documents[1].tokens.size(), 0);
    std::fill_n(documents[1].loss_mask.begin() + 10, 20, uint8_t{1});
    test_ = MakeScoredText(*model_, documents, SplitRole::kTest);
    unrelated_ = MakeScoredText(*model_, {documents.begin(), documents.begin() + 3}, SplitRole::kTest);
    Score({}, nullptr, frozen_, frozen_run_);
    const auto errors = std::make_shared<HookErrors>();
    Score(TableHooks(tables_, errors), errors, memory_, memory_run_);
  }

  void Score(const HookFactory& hooks, const std::shared_ptr<HookErrors>& errors, TokenScores& scores,
             VariantRun& run) {
    auto scored = ScoreVariant("a", *model_, hooks, errors, test_, unrelated_,
                               {.threads = 1, .keep = &scores, .on_progress = {}});
    ASSERT_TRUE(IsOk(scored));
    run = std::move(scored).value();
  }

  Result<Breakdown> ExamineWith(int threads) const {
    return Examine({.model = model_.get(),
                    .test = &test_,
                    .frozen = &frozen_,
                    .memory = &memory_,
                    .tables = tables_,
                    .statistics = {.seed = 1},
                    .threads = threads});
  }

  std::unique_ptr<MoeModel> model_;
  std::shared_ptr<const RoutingTables> tables_;
  ScoredText test_, unrelated_;
  TokenScores frozen_, memory_;
  VariantRun frozen_run_, memory_run_;
};

double Sum(const std::vector<DocumentNll>& documents) {
  double sum = 0;
  for (const DocumentNll& d : documents) sum += d.nll_sum;
  return sum;
}

TEST_F(ScoredDocuments, EveryGroupingAddsUpToTheScoredTokens) {
  const auto breakdown = ExamineWith(1);
  ASSERT_TRUE(IsOk(breakdown));
  const uint64_t tokens = CountTargets(test_.sequences);
  std::map<std::string, std::vector<BreakdownRow>> by;
  for (const auto* rows : {&breakdown.value().kinds, &breakdown.value().classes, &breakdown.value().positions}) {
    for (const BreakdownRow& row : *rows) by[row.by].push_back(row);
  }
  ASSERT_THAT(by, ::testing::SizeIs(5));  // extension, folder, text, repetition, position
  for (const auto& [name, rows] : by) {
    SCOPED_TRACE(name);
    uint64_t counted = 0;
    double frozen = 0, memory = 0, gain = 0;
    for (const BreakdownRow& row : rows) {
      const auto n = static_cast<double>(row.tokens);
      counted += row.tokens;
      frozen += n * row.frozen_nll;
      memory += n * row.memory_nll;
      gain += n * row.gain;
      if (!row.ci95) continue;
      EXPECT_LE(row.ci95->low, row.gain);
      EXPECT_GE(row.ci95->high, row.gain);
    }
    EXPECT_EQ(counted, tokens);
    EXPECT_NEAR(frozen, Sum(frozen_run_.test), 1e-6);
    EXPECT_NEAR(memory, Sum(memory_run_.test), 1e-6);
    EXPECT_NEAR(gain, Sum(memory_run_.test) - Sum(frozen_run_.test), 1e-6);
  }
  EXPECT_EQ(by["extension"][0].name, ".h");
  EXPECT_EQ(by["extension"][0].documents, 8u);
  EXPECT_EQ(by["folder"].size(), 2u);
}

TEST_F(ScoredDocuments, LayersSayHowMuchRoutingChanged) {
  const auto breakdown = ExamineWith(1);
  ASSERT_TRUE(IsOk(breakdown));
  EXPECT_EQ(breakdown.value().traced_tokens, CountTargets(test_.sequences));
  ASSERT_EQ(breakdown.value().layers.size(), static_cast<size_t>(model_->config().num_layers));
  for (const LayerRow& row : breakdown.value().layers) {
    EXPECT_GT(row.changed_tokens, 0.05) << row.layer;
    EXPECT_GE(row.changed_experts, row.changed_tokens) << row.layer;
    EXPECT_LE(row.changed_experts, static_cast<double>(model_->config().experts_per_token) * row.changed_tokens);
    EXPECT_GT(row.confidence, 0);
  }
  for (const BreakdownRow& row : breakdown.value().positions) EXPECT_GT(row.gate.value_or(0), 0);
  // A memory that votes for nothing changes no expert.
  const auto shut = testing::RandomTables(
      static_cast<uint32_t>(model_->config().hidden_size), static_cast<uint32_t>(model_->config().num_experts),
      static_cast<uint32_t>(model_->config().num_layers), testing::GateState::kShut);
  const auto tally = TallyRouting(*model_, shut, test_.sequences, {});
  ASSERT_TRUE(IsOk(tally));
  for (const LayerTally& layer : tally.value().layers) EXPECT_EQ(layer.changed_experts + layer.open_tokens, 0u);
}

TEST_F(ScoredDocuments, TheSignalIsTheMeanOfItsTokens) {
  const auto trace = TraceSequence(*model_, tables_, test_.sequences.front());
  ASSERT_TRUE(IsOk(trace));
  const auto tally = TallyRouting(*model_, tables_, std::span(test_.sequences).first(1), {});
  ASSERT_TRUE(IsOk(tally));
  const RoutingSignal signal = SignalOf(tally.value());
  double open = 0, gate = 0, weight = 0, similarity = 0, tokens = 0, searched = 0;
  const auto layers = static_cast<double>(model_->config().num_layers);
  for (const RowTrace& row : trace.value()) {
    if (!test_.sequences.front().mask[row.row]) continue;
    tokens += 1 / layers;
    open += (row.gate > 0) / layers;
    gate += row.gate / layers;
    weight += row.gate * row.confidence / layers;
    if (row.gate > 0) similarity += row.neighbours.front().similarity, ++searched;
  }
  EXPECT_NEAR(static_cast<double>(signal.tokens), tokens, 1e-6);
  EXPECT_NEAR(signal.open_share, open / tokens, 1e-6);
  EXPECT_NEAR(signal.gate_mean, gate / tokens, 1e-6);
  EXPECT_NEAR(signal.confidence_mean, weight / tokens, 1e-6);
  EXPECT_NEAR(signal.similarity_mean, similarity / searched, 1e-6);
  EXPECT_GT(signal.open_share, 0);
  EXPECT_EQ(SignalOf(RoutingTally()).tokens, 0u);
}

TEST_F(ScoredDocuments, TheBreakdownIsTheSameForAnyNumberOfThreads) {
  const auto one = ExamineWith(1), three = ExamineWith(3);
  ASSERT_TRUE(IsOk(one));
  ASSERT_TRUE(IsOk(three));
  for (size_t i = 0; i < one.value().layers.size(); ++i) {
    EXPECT_EQ(one.value().layers[i].confidence, three.value().layers[i].confidence);
    EXPECT_EQ(one.value().layers[i].changed_experts, three.value().layers[i].changed_experts);
  }
  for (size_t i = 0; i < one.value().positions.size(); ++i) {
    EXPECT_EQ(one.value().positions[i].gate, three.value().positions[i].gate);
  }
}

TEST_F(ScoredDocuments, ASampleLeavesSequencesOutEvenly) {
  const uint64_t half = CountTargets(test_.sequences) / 2;
  const auto tally = TallyRouting(*model_, tables_, test_.sequences, {.max_tokens = half, .threads = 1});
  ASSERT_TRUE(IsOk(tally));
  EXPECT_GT(tally.value().tokens, 0u);
  EXPECT_LT(tally.value().tokens, CountTargets(test_.sequences));
}

TEST_F(ScoredDocuments, PassagesShowTheBestTheMedianTheWorstAndAnUnrelatedDocument) {
  const auto passages = ChoosePassages({.model = model_.get(),
                                        .test = &test_,
                                        .unrelated = &unrelated_,
                                        .frozen = &frozen_,
                                        .memory = &memory_,
                                        .tables = tables_,
                                        .texts = nullptr});
  ASSERT_TRUE(IsOk(passages));
  ASSERT_EQ(passages.value().size(), 4u);
  const auto& [best, median, worst, unrelated] =
      std::tie(passages.value()[0], passages.value()[1], passages.value()[2], passages.value()[3]);
  EXPECT_EQ(unrelated.role, PassageRole::kUnrelated);
  EXPECT_LE(best.document_gain, median.document_gain);
  EXPECT_LE(median.document_gain, worst.document_gain);
  // The gains are those of the scored documents.
  double lowest = 1e9;
  for (size_t i = 0; i < memory_run_.test.size(); ++i) {
    const auto tokens = static_cast<double>(memory_run_.test[i].tokens);
    if (tokens >= 64) lowest = std::min(lowest, (memory_run_.test[i].nll_sum - frozen_run_.test[i].nll_sum) / tokens);
  }
  EXPECT_NEAR(best.document_gain, lowest, 1e-6);
  for (const Passage& passage : passages.value()) {
    SCOPED_TRACE(passage.document);
    ASSERT_FALSE(passage.tokens.empty());
    const Document& document = *std::find_if(test_.documents.begin(), test_.documents.end(),
                                             [&](const Document& d) { return d.source == passage.document; });
    std::string text;
    for (const PassageToken& token : passage.tokens) text += token.text;
    EXPECT_THAT(model_->tokenizer().Decode(document.tokens), HasSubstr(text));
    for (const ExplainedToken& explained : passage.explained) {
      EXPECT_GT(passage.tokens[explained.token].gate, 0);
      for (const ExpertChange& change : explained.changes) EXPECT_EQ(change.gone.size(), change.come.size());
    }
  }
  EXPECT_FALSE(best.explained.empty());
}

TEST_F(ScoredDocuments, TokensInsideOneCharacterAreShownTogether) {
  const auto passages = ChoosePassages({.model = model_.get(),
                                        .test = &test_,
                                        .unrelated = &unrelated_,
                                        .frozen = &frozen_,
                                        .memory = &memory_,
                                        .tables = tables_,
                                        .texts = nullptr});
  ASSERT_TRUE(IsOk(passages));
  size_t umlauts = 0;
  for (const Passage& passage : passages.value()) {
    for (const PassageToken& token : passage.tokens) {
      umlauts += token.text == "\xc3\xbc" || token.text == "\xc3\x9f";
      EXPECT_TRUE(token.text.size() == 1 || token.text == "\xc3\xbc" || token.text == "\xc3\x9f") << token.text;
    }
  }
  EXPECT_GT(umlauts, 0u);
}

}  // namespace
}  // namespace pointsman
