#include "adapt/objective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapt/capture.h"
#include "adapt/testing/tiny_text.h"

namespace pointsman {
namespace {

class TinyModelWithText : public ::testing::Test {
 protected:
  const std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Sequence> text_ = testing::PredictableText(12, 20, 1);
};

// Adds a constant to expert 0 of one layer for every second row.
class EverySecondRow : public RoutingHook {
 public:
  void BeginStep(const StepInfo&) override {}
  at::Tensor Route(int layer, const at::Tensor&, const at::Tensor& logits) override {
    if (layer != 1) return logits;
    at::Tensor changed = logits.clone();
    for (int64_t row = 0; row < logits.size(0); row += 2) changed[row][0] += 3.0f;
    return changed;
  }
};

TEST_F(TinyModelWithText, ScoresEqualTheModelsCrossEntropy) {
  const at::NoGradGuard no_grad;
  const auto scores = ScoreSequences(*model_, text_, {}, {});
  const std::vector<uint32_t> first{0};
  const Batch batch = MakeBatch(text_, first);
  const at::Tensor logits = model_->Forward(batch.ids, {}).squeeze(0);
  const at::Tensor expected = at::cross_entropy_loss(logits, batch.targets.squeeze(0), {}, at::Reduction::None);
  for (int64_t t = 0; t < expected.size(0); ++t) EXPECT_NEAR(scores[0].nll[t], expected[t].item<float>(), 1e-4);
}

TEST_F(TinyModelWithText, ScoresDoNotDependOnThreads) {
  const auto one = ScoreSequences(*model_, text_, {}, {.threads = 1, .batch_sequences = 4, .on_progress = {}});
  const auto three = ScoreSequences(*model_, text_, {}, {.threads = 3, .batch_sequences = 4, .on_progress = {}});
  for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].nll, three[i].nll);
}

TEST_F(TinyModelWithText, MaskedTargetsScoreZeroAndAreNotCounted) {
  for (uint8_t& m : text_[0].mask) m = 0;
  const auto scores = ScoreSequences(*model_, text_, {}, {});
  for (float nll : scores[0].nll) EXPECT_EQ(nll, 0.0f);
  EXPECT_EQ(CountTargets(text_), 11u * 20u);
  EXPECT_GT(MeanNll(text_, scores), 1.0);
}

// Raises token 3 of every third row's output.
class EveryThirdOutput : public RoutingHook {
 public:
  void BeginStep(const StepInfo&) override {}
  at::Tensor Route(int, const at::Tensor&, const at::Tensor& logits) override { return logits; }
  at::Tensor Output(const at::Tensor&, const at::Tensor& logits) override {
    for (int64_t row = 0; row < logits.size(0); row += 3) logits[row][3] += 1.0f;  // in place, as the router does
    return logits;
  }
};

TEST_F(TinyModelWithText, UntouchedCountsTheOutputToo) {
  const auto hooks = [](const Batch&, std::vector<uint32_t>*) { return std::make_unique<EveryThirdOutput>(); };
  const auto scores = ScoreSequences(*model_, text_, hooks, {.batch_sequences = 1});
  const auto frozen = ScoreSequences(*model_, text_, {}, {.batch_sequences = 1});
  for (size_t i = 0; i < scores.size(); ++i) {
    for (size_t t = 0; t < 20; ++t) {
      EXPECT_EQ(scores[i].untouched[t], t % 3 != 0) << t;
      EXPECT_EQ(scores[i].nll[t] == frozen[i].nll[t], t % 3 != 0) << t;
    }
  }
}

TEST_F(TinyModelWithText, UntouchedNamesExactlyTheRowsThatNoLayerChanged) {
  const auto hooks = [](const Batch&, std::vector<uint32_t>*) { return std::make_unique<EverySecondRow>(); };
  const auto scores = ScoreSequences(*model_, text_, hooks, {});
  for (const SequenceScore& score : scores) {
    for (size_t t = 0; t < score.untouched.size(); ++t) EXPECT_EQ(score.untouched[t], t % 2) << t;
  }
}

TEST_F(TinyModelWithText, CaptureKeepsEachTokensRouterInput) {
  const auto hidden = CaptureHidden(*model_, text_, {.threads = 2, .on_progress = {}});
  ASSERT_EQ(hidden.size(), 3u);
  EXPECT_EQ(hidden[0].sizes(), (at::IntArrayRef{12 * 20, 24}));
  // A sequence captured alone shows the same rows.
  std::vector<Sequence> alone{text_[5]};
  NumberRows(alone);
  const auto again = CaptureHidden(*model_, alone, {});
  const at::Tensor rows = hidden[2].narrow(0, static_cast<int64_t>(text_[5].first_row), 20);
  EXPECT_LT((rows - again[2]).abs().max().item<float>(), 1e-4);
}

TEST_F(TinyModelWithText, KeysAreUnitVectorsWhitenedOrRaw) {
  const auto hidden = CaptureHidden(*model_, text_, {});
  for (uint32_t dim : {0u, 8u}) {
    const auto keys = MakeKeys(hidden[0], dim);
    ASSERT_TRUE(keys.ok()) << keys.error().message;
    EXPECT_EQ(keys.value().keys.size(1), dim == 0 ? 24 : 8);
    const at::Tensor norms = keys.value().keys.norm(2, {-1});
    EXPECT_LT((norms - 1).abs().max().item<float>(), 1e-4);
  }
}

}  // namespace
}  // namespace pointsman
