#include "indexer/output_memory.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adapt/objective.h"
#include "adapt/testing/tiny_text.h"
#include "indexer/candidates.h"
#include "indexer/evaluation/output_variants.h"
#include "indexer/evaluation/scorer.h"
#include "memory/copy_tables.h"
#include "memory/memory.h"

namespace pointsman {
namespace {

using testing::GateState;

// Reference and calibration documents of one predictable language; the model is random and knows nothing of it.
class ReferenceOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    ASSERT_NE(model_, nullptr);
    const auto text = testing::PredictableText(50, 30, 1);
    for (size_t i = 0; i < text.size(); ++i) {
      Document document;
      document.hash = document.cluster = i + 1;
      document.source = "doc" + std::to_string(i);
      document.role = i < 40 ? SplitRole::kReference : SplitRole::kCalibration;
      document.tokens = text[i].targets;
      documents_.push_back(std::move(document));
    }
    auto set = MakeReferenceSet(*model_, documents_, {.key_dim = 16, .groups = {}, .threads = 1, .on_progress = {}});
    ASSERT_TRUE(set.ok()) << set.error().message;
    set_ = std::move(set).value();
  }
  OwnedOutput Made(const OwnedTables& tables = {}, int threads = 1) const {
    auto output = MakeOutput(*model_, set_, tables, {.key_dim = 16, .neighbours = 64, .threads = threads});
    EXPECT_TRUE(output.ok()) << output.error().message;
    return std::move(output).value();
  }
  double Loss(const OwnedTables& tables) const {
    const auto errors = std::make_shared<HookErrors>();
    const auto scores = ScoreSequences(*model_, set_.calibration, TableHooks(MakeTables(tables), errors), {});
    EXPECT_TRUE(errors->first().ok()) << errors->first().error().message;
    return MeanNll(set_.calibration, scores);
  }

  const std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Document> documents_;
  ReferenceSet set_;
};

TEST_F(ReferenceOfATinyModel, HoldsEachReferenceTokensNextToken) {
  OwnedTables tables;
  tables.documents = set_.names;
  tables.output = Made();
  const OwnedOutput& output = tables.output;
  ASSERT_EQ(output.next_tokens.size(), 40u * 30);
  for (size_t row = 0; row < output.next_tokens.size(); ++row) {
    const EntryRef& ref = output.references[row];
    EXPECT_EQ(output.next_tokens[row], documents_[ref.document].tokens[ref.position]);
  }
  EXPECT_TRUE(CheckTables(*MakeTables(tables)).ok());
  EXPECT_EQ(TableBytes(*MakeTables(tables)), 1200u * (16 + 4 + 4 + 8) + (24 + 16 * 24) * 4);
  const OwnedOutput threaded = Made({}, 3);
  EXPECT_EQ(threaded.keys.codes, output.keys.codes);
}

TEST_F(ReferenceOfATinyModel, LeavesOutWhatTheModelIsNotToSay) {
  std::fill(set_.reference[0].mask.begin(), set_.reference[0].mask.end(), uint8_t{0});
  const OwnedOutput output = Made();
  EXPECT_EQ(output.next_tokens.size(), 39u * 30);
  EXPECT_EQ(output.references[0].document, 1u);
}

// What the tuning computes from captured states is what routing and scoring with the tables give.
TEST_F(ReferenceOfATinyModel, TuningFindsTheLossThatScoringFinds) {
  for (const bool gated : {false, true}) {
    const MoeConfig& c = model_->config();
    const auto routing = testing::RandomTables(c.hidden_size, c.num_experts, c.num_layers, GateState::kHalfOpen);
    OwnedTables tables;
    tables.documents = set_.names;
    if (gated) tables.gate = CopyTables(*routing).gate;
    tables.output = Made();
    OwnedTables threaded = tables;
    const auto tuning = TuneOutput(*model_, set_.calibration, tables, 1);
    ASSERT_TRUE(tuning.ok()) << tuning.error().message;
    EXPECT_LT(tuning.value().after, tuning.value().before - 0.3);
    EXPECT_NEAR(Loss(tables), tuning.value().after, 1e-5);
    EXPECT_GE(tables.output.lambda, 0.1f);
    OwnedTables other = tables;  // the best of the grid
    other.output.lambda -= 0.1f;
    EXPECT_GT(Loss(other), tuning.value().after);
    other.output = {};
    EXPECT_NEAR(Loss(other), tuning.value().before, 1e-5);
    ASSERT_TRUE(TuneOutput(*model_, set_.calibration, threaded, 3).ok());
    EXPECT_EQ(Digest(*MakeTables(threaded)), Digest(*MakeTables(tables)));
  }
}

TEST_F(ReferenceOfATinyModel, VotesThatDoNotHelpAreSilent) {
  OwnedTables tables;
  tables.documents = set_.names;
  tables.output = Made();
  for (int32_t& token : tables.output.next_tokens) token = 200;  // never the next token
  const auto tuning = TuneOutput(*model_, set_.calibration, tables, 1);
  ASSERT_TRUE(tuning.ok());
  EXPECT_EQ(tables.output.lambda, 0);
  EXPECT_EQ(tuning.value().after, tuning.value().before);
}

TEST_F(ReferenceOfATinyModel, VariantsShareWhatTheyAreMadeOf) {
  const MoeConfig& c = model_->config();
  const auto routing = testing::RandomTables(c.hidden_size, c.num_experts, c.num_layers, GateState::kHalfOpen);
  OutputVariants variants(*model_, &set_, routing, {}, 1);
  const auto alone = variants.Make("knn_lm"), gated = variants.Make("knn_lm+gate"),
             both = variants.Make("memory+output");
  ASSERT_TRUE(alone.ok() && gated.ok() && both.ok());
  EXPECT_TRUE(alone.value().tables->layers.empty());
  EXPECT_FALSE(alone.value().tables->gate.enabled);
  EXPECT_GT(gated.value().build_s, 0);
  EXPECT_EQ(both.value().tables->layers.size(), routing->layers.size());
  EXPECT_TRUE(both.value().tables->gate.enabled);
  // With the memory routing, other hidden states are recorded.
  EXPECT_FALSE(std::ranges::equal(both.value().tables->output.keys.codes, alone.value().tables->output.keys.codes));
  EXPECT_EQ(variants.Make("knn_lm").value().tables, alone.value().tables);

  OutputVariants published(*model_, nullptr, both.value().tables, {}, 1);
  EXPECT_EQ(published.Make("memory+output").value().tables, both.value().tables);
  const auto routing_alone = RoutingAlone(both.value().tables);
  EXPECT_FALSE(routing_alone->output.enabled);
  EXPECT_EQ(Digest(*routing_alone), Digest(*routing));
}

}  // namespace
}  // namespace pointsman
