#include "indexer/evaluation/c3po.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adapt/capture.h"
#include "adapt/tensors.h"
#include "adapt/testing/tiny_text.h"

namespace pointsman {
namespace {

TEST(C3poEmbedTest, IsADecayedMeanOfTheTextSoFar) {
  // Two windows of three tokens; the second must know nothing of the first.
  const at::Tensor keys = TensorOf(std::vector<float>{1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0}, {6, 2});
  const std::vector<float> last = VectorOf(C3po::Embed(keys, 3, 0)), mean = VectorOf(C3po::Embed(keys, 3, 1));
  EXPECT_EQ(last, VectorOf(keys));
  EXPECT_NEAR(mean[2], 1 / std::sqrt(2.0), 1e-6);
  EXPECT_NEAR(mean[4], 2 / std::sqrt(5.0), 1e-6);
  EXPECT_NEAR(mean[6], 0, 1e-6);
  EXPECT_NEAR(mean[7], 1, 1e-6);
  const std::vector<float> half = VectorOf(C3po::Embed(keys, 3, 0.5));
  EXPECT_NEAR(half[4] / half[5], 2.5, 1e-5);  // (1 + .25) / .5
}

TEST(C3poMixTest, MovesOnlyTheFavoritesMassAmongThem) {
  const at::Tensor p = TensorOf(std::vector<float>{0.4, 0.3, 0.2, 0.1}, {1, 4});
  const at::Tensor neighbours = TensorOf(std::vector<float>{0.1, 0.1, 0.6, 0.2}, {1, 4});
  const std::vector<float> mixed = VectorOf(C3po::Mix(p, neighbours, at::full({1, 1}, 0.5), 3));
  // Mass .9 in the favorites; the neighbours' share there is 1/8, 1/8, 6/8.
  EXPECT_NEAR(mixed[0], 0.5 * 0.4 + 0.5 * 0.9 / 8, 1e-6);
  EXPECT_NEAR(mixed[1], 0.5 * 0.3 + 0.5 * 0.9 / 8, 1e-6);
  EXPECT_NEAR(mixed[2], 0.5 * 0.2 + 0.5 * 0.9 * 6 / 8, 1e-6);
  EXPECT_NEAR(mixed[3], 0.1, 1e-6);
  EXPECT_EQ(VectorOf(C3po::Mix(p, neighbours, at::full({1, 1}, 1.0), 3)), VectorOf(p));
}

class ReferenceTextOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr);
    set_.reference = testing::PredictableText(40, 40, 1);
    set_.calibration = testing::PredictableText(8, 40, 2);
    set_.hidden = CaptureHidden(*model_, set_.reference, {});
    for (const at::Tensor& hidden : set_.hidden) {
      auto keys = MakeKeys(hidden, 8);
      ASSERT_TRUE(keys.ok()) << keys.error().message;
      set_.keys.push_back(std::move(keys).value());
    }
    set_.refs.resize(CountTargets(set_.reference));
    auto made = C3po::Create(*model_, set_, {}, {});
    ASSERT_TRUE(made.ok()) << made.error().message;
    c3po_ = std::move(made).value();
  }
  std::vector<SequenceScore> Scores(std::span<const Sequence> text, const C3poSetting& setting,
                                    std::shared_ptr<const OwnedGate> gate = nullptr) const {
    return ScoreSequences(*model_, text, c3po_->Hooks(setting, std::move(gate)), {});
  }
  // A ramp below all evidence, or above it: open for every text, or for none.
  static std::shared_ptr<const OwnedGate> Gate(bool open) {
    auto gate = std::make_shared<OwnedGate>();
    gate->enabled = true;
    gate->groups[0].lo = open ? -2.0f : 2.0f;
    gate->groups[0].hi = open ? -1.0f : 3.0f;
    gate->pairs = {1};
    gate->is_common = {0};
    return gate;
  }

  std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  ReferenceSet set_;
  std::unique_ptr<C3po> c3po_;
};

TEST_F(ReferenceTextOfATinyModel, ATokenSeesOnlyTheTextBeforeIt) {
  constexpr size_t kChanged = 25;
  const std::vector<Sequence> text = testing::PredictableText(1, 40, 3);
  std::vector<Sequence> other = text;
  for (size_t t = kChanged; t < 40; ++t) other[0].inputs[t] = (text[0].inputs[t] + 5) % 20;
  const C3poSetting setting{0.9, 0.5, 0.3};
  const auto a = Scores(text, setting), b = Scores(other, setting);
  bool differs = false;
  for (size_t t = 0; t < 40; ++t) {
    if (t < kChanged) {
      EXPECT_NEAR(a[0].nll[t], b[0].nll[t], 1e-5) << t;
    } else {
      differs = differs || std::abs(a[0].nll[t] - b[0].nll[t]) > 1e-3;
    }
  }
  EXPECT_TRUE(differs);
}

TEST_F(ReferenceTextOfATinyModel, KeepingItsOwnRoutingOrAShutGateIsTheFrozenModel) {
  const std::vector<Sequence> text = testing::PredictableText(4, 40, 3);
  const auto frozen = ScoreSequences(*model_, text, {}, {});
  const C3poSetting strong{0.9, 0.5, 0.1};
  const auto kept = Scores(text, {0.9, 0.5, 1.0}), shut = Scores(text, strong, Gate(false));
  const auto open = Scores(text, strong, Gate(true)), ungated = Scores(text, strong);
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_EQ(kept[i].nll, frozen[i].nll);
    EXPECT_EQ(shut[i].nll, frozen[i].nll);
    for (size_t t = 0; t < open[i].nll.size(); ++t) EXPECT_NEAR(open[i].nll[t], ungated[i].nll[t], 1e-4);
    EXPECT_NE(ungated[i].nll, frozen[i].nll);
  }
}

TEST_F(ReferenceTextOfATinyModel, ItsSettingIsNoWorseThanFrozenOnCalibrationText) {
  const double frozen = MeanNll(set_.calibration, ScoreSequences(*model_, set_.calibration, {}, {}));
  EXPECT_LE(MeanNll(set_.calibration, Scores(set_.calibration, c3po_->setting())), frozen + 1e-9);
  EXPECT_GT(c3po_->bytes(), 0);
}

}  // namespace
}  // namespace pointsman
