#include "adapt/output_capture.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapt/objective.h"
#include "adapt/rerouting.h"
#include "adapt/testing/tiny_text.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

using testing::GateState;

class TextOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(model_, nullptr); }
  std::shared_ptr<const RoutingTables> Tables(GateState gate) const {
    const MoeConfig& c = model_->config();
    return testing::RandomTables(c.hidden_size, c.num_experts, c.num_layers, gate);
  }
  OutputCapture Captured(const std::shared_ptr<const RoutingTables>& tables, int threads = 1) const {
    auto capture = CaptureOutput(*model_, text_, tables, {.threads = threads, .on_progress = {}});
    EXPECT_TRUE(capture.ok()) << capture.error().message;
    return std::move(capture).value();
  }

  const std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Sequence> text_ = testing::PredictableText(20, 24, 3);
};

TEST_F(TextOfATinyModel, HiddenStatesAreWhatTheOutputLayerReads) {
  const at::NoGradGuard no_grad;
  const OutputCapture capture = Captured(MakeTables({}));
  ASSERT_EQ(capture.hidden.size(0), 20 * 24);
  at::Tensor output;  // tied: the embedding
  for (const auto& [name, value] : model_->Weights()) {
    if (name == "model.embed_tokens.weight") output = value;
  }
  const auto scores = ScoreSequences(*model_, text_, {}, {});
  for (const size_t i : {0u, 7u, 19u}) {
    const Sequence& s = text_[i];
    const std::vector<int64_t> ids(s.inputs.begin(), s.inputs.end());
    const at::Tensor logits = model_->Forward(at::tensor(ids).view({1, -1}), {}).squeeze(0);
    const at::Tensor rows = capture.hidden.narrow(0, static_cast<int64_t>(s.first_row), 24);
    EXPECT_LT((at::matmul(rows, output.t()) - logits).abs().max().item<float>(), 1e-4);
    for (size_t t = 0; t < 24; ++t) {
      EXPECT_EQ(capture.nll[s.first_row + t], scores[i].nll[t]);
      EXPECT_EQ(capture.gate[s.first_row + t], 1);  // tables without a gate
    }
  }
}

TEST_F(TextOfATinyModel, AreCapturedWithTheMemoryRoutingUnderItsGate) {
  const OutputCapture frozen = Captured(MakeTables({})), half = Captured(Tables(GateState::kHalfOpen)),
                      shut = Captured(Tables(GateState::kShut));
  EXPECT_TRUE(at::equal(shut.hidden, frozen.hidden));
  EXPECT_EQ(shut.gate, std::vector<float>(shut.gate.size(), 0));
  EXPECT_GT((half.hidden - frozen.hidden).abs().max().item<float>(), 1e-2);
  EXPECT_GT(half.gate.back(), 0);
  EXPECT_LT(half.gate.back(), 1);
  const OutputCapture threaded = Captured(Tables(GateState::kHalfOpen), 3);
  EXPECT_TRUE(at::equal(threaded.hidden, half.hidden));
  EXPECT_EQ(threaded.gate, half.gate);
}

TEST_F(TextOfATinyModel, TablesOfAnotherModelAreAnError) {
  const MoeConfig& c = model_->config();
  const auto capture =
      CaptureOutput(*model_, text_, testing::RandomTables(c.hidden_size, 99, c.num_layers, GateState::kOff), {});
  ASSERT_FALSE(capture.ok());
  EXPECT_NE(capture.error().message.find("99"), std::string::npos);
}

// Votes count as constants for online rerouting: they are there, and gradients pass them.
TEST_F(TextOfATinyModel, AnOutputMemoryIsAConstantForRerouting) {
  OwnedTables owned;
  owned.output.enabled = true;
  owned.output.vocabulary = static_cast<uint32_t>(model_->config().vocab_size);
  owned.output.lambda = 0.5f;
  owned.output.keys.hidden = owned.output.keys.dim = static_cast<uint32_t>(model_->config().hidden_size);
  std::vector<float> key(model_->config().hidden_size);
  key.front() = 1;
  owned.output.keys.SetKeys(key);
  owned.output.next_tokens = {5};
  const MemoryBinding memory{MakeTables(std::move(owned)), 1.0f};
  const std::vector<uint32_t> members{0, 1, 2};
  const Batch batch = MakeBatch(text_, members);
  ConstantMemory constant(memory, 3);
  const at::Tensor with = model_->Forward(batch.ids, {.hook = &constant, .slots = constant.slots()});
  const at::Tensor without = model_->Forward(batch.ids, {});
  EXPECT_GT((with - without).select(2, 5).min().item<float>(), 0);
  const auto rerouted = Reroute(*model_, batch, memory, {}, {.steps = 3});
  ASSERT_TRUE(rerouted.ok()) << rerouted.error().message;
  EXPECT_GT(rerouted.value().vectors[0].abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace pointsman
