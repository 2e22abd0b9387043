// Passes over different sequences at different positions against each sequence alone.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/few_rows.h"
#include "models/model.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using ::testing::ElementsAre;

class StepRecorder : public RoutingHook {
 public:
  void BeginStep(const StepInfo& step) override { step_ = step; }
  at::Tensor Route(int, const at::Tensor& hidden, const at::Tensor& logits) override {
    EXPECT_TRUE(hidden.is_contiguous() && logits.is_contiguous());
    EXPECT_EQ(logits.size(0), static_cast<int64_t>(step_.tokens.size()));
    return logits;
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    outputs_ = hidden.size(0);
    return logits;
  }
  StepInfo step_;
  int64_t outputs_ = 0;
};

class Ragged : public ::testing::TestWithParam<testing::TinyModelShape> {
 protected:
  void SetUp() override {
    testing::TemporaryDirectory directory;
    testing::WriteTinyModel(directory.path(), GetParam());
    auto loaded = MoeModel::Load(directory.path());
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::move(loaded).value();
    std::mt19937 random(4);
    for (size_t i = 0; i < 5; ++i) {
      texts_.emplace_back();
      for (size_t t = 0; t < 60; ++t) texts_.back().push_back(static_cast<int32_t>(random() % GetParam().vocab));
      caches_.push_back(model_->NewCache(1));
    }
  }

  // The next `count` tokens of a text.
  MoeModel::RowSegment Next(size_t text, size_t count, bool wants_logits = true) {
    return {.tokens = std::span(texts_[text]).subspan(caches_[text].length, count),
            .cache = &caches_[text],
            .slot = static_cast<uint32_t>(text),
            .wants_logits = wants_logits};
  }

  // Logits [T, V] of a whole text in one pass.
  at::Tensor Whole(size_t text) const {
    const std::vector<int64_t> ids(texts_[text].begin(), texts_[text].end());
    return model_->Forward(at::tensor(ids).view({1, -1}), {})[0];
  }

  // The logits after what a text's cache holds must be `row`.
  void ExpectAsWhole(size_t text, const at::Tensor& row) {
    const at::Tensor expected = Whole(text)[caches_[text].length - 1];
    EXPECT_LT((row - expected).abs().max().item<float>(), 1e-4) << "text " << text << " at " << caches_[text].length;
  }

  const at::NoGradGuard no_grad_;
  std::unique_ptr<MoeModel> model_;
  std::vector<std::vector<int32_t>> texts_;
  std::vector<KvCache> caches_;
};

INSTANTIATE_TEST_SUITE_P(
    Shapes, Ragged,
    ::testing::Values(testing::TinyModelShape{}, testing::TinyModelShape{.heads = 4, .kv_heads = 4, .normalize = true},
                      testing::TinyModelShape{.heads = 4, .kv_heads = 1, .tied = false, .clip = 0.5}));

TEST_P(Ragged, PromptsChunksAndSingleTokensShareAPass) {
  // Text 0 decodes throughout; 1 comes in chunks; 2 joins late; 3 leaves for a while; 4 is one long prompt.
  const std::vector<std::vector<std::pair<size_t, size_t>>> passes = {{{0, 9}, {1, 20}},
                                                                      {{1, 7}, {0, 1}, {3, 11}},
                                                                      {{0, 1}, {3, 1}, {2, 30}, {1, 1}},
                                                                      {{0, 1}, {1, 1}, {2, 1}},
                                                                      {{4, 45}, {3, 1}, {0, 1}, {1, 1}, {2, 2}}};
  for (const auto& pass : passes) {
    std::vector<MoeModel::RowSegment> segments;
    for (const auto& [text, count] : pass) segments.push_back(Next(text, count));
    const at::Tensor logits = model_->ForwardRows(segments, nullptr);
    ASSERT_EQ(logits.sizes(), at::IntArrayRef({static_cast<int64_t>(pass.size()), GetParam().vocab}));
    for (size_t i = 0; i < pass.size(); ++i) ExpectAsWhole(pass[i].first, logits[static_cast<int64_t>(i)]);
  }
}

TEST_P(Ragged, SingleTokensHaveTheBitsThatTheyHaveAlone) {
  std::vector<MoeModel::RowSegment> segments;
  for (size_t text = 0; text < 5; ++text) {
    const MoeModel::RowSegment prompt = Next(text, 6 + 9 * text);
    model_->ForwardRows({&prompt, 1}, nullptr);
  }
  for (size_t text = 0; text < 5; ++text) segments.push_back(Next(text, 1));
  static_assert(5 <= kFewRows);
  const at::Tensor together = model_->ForwardRows(segments, nullptr);
  for (size_t text = 0; text < 5; ++text) {
    --caches_[text].length;
    const MoeModel::RowSegment alone = Next(text, 1);
    EXPECT_TRUE(at::equal(model_->ForwardRows({&alone, 1}, nullptr)[0], together[static_cast<int64_t>(text)])) << text;
    --caches_[text].length;
    const at::Tensor id = at::full({1, 1}, int64_t{texts_[text][caches_[text].length]}, at::kLong);
    EXPECT_TRUE(at::equal(model_->Forward(id, {.cache = &caches_[text]})[0], together.narrow(0, text, 1))) << text;
  }
}

TEST_P(Ragged, LogitsComeForTheSegmentsThatWantThem) {
  StepRecorder hook;
  std::vector<MoeModel::RowSegment> segments{Next(3, 4, false), Next(1, 2), Next(4, 3, false), Next(2, 1)};
  const at::Tensor logits = model_->ForwardRows(segments, &hook);
  ASSERT_EQ(logits.size(0), 2);
  EXPECT_EQ(hook.outputs_, 2);
  EXPECT_THAT(hook.step_.output_rows, ElementsAre(5, 9));
  EXPECT_THAT(hook.step_.slots, ElementsAre(3, 3, 3, 3, 1, 1, 4, 4, 4, 2));
  EXPECT_THAT(hook.step_.positions, ElementsAre(0, 1, 2, 3, 0, 1, 0, 1, 2, 0));
  EXPECT_EQ(hook.step_.tokens[8], texts_[4][2]);
  ExpectAsWhole(1, logits[0]);
  ExpectAsWhole(2, logits[1]);

  segments = {Next(3, 2, false)};
  EXPECT_EQ(model_->ForwardRows(segments, &hook).size(0), 0);
  EXPECT_THAT(hook.step_.positions, ElementsAre(4, 5));
  segments = {Next(3, 1)};
  ExpectAsWhole(3, model_->ForwardRows(segments, nullptr)[0]);
}

TEST_P(Ragged, MoreRowsThanFewAgreeToo) {
  // Many single tokens at once: past kFewRows the products are LibTorch's.
  std::vector<KvCache> caches;
  std::vector<MoeModel::RowSegment> segments;
  const size_t count = 2 * kFewRows + 3;
  for (size_t i = 0; i < count; ++i) caches.push_back(model_->NewCache(1));
  for (size_t i = 0; i < count; ++i) {
    const MoeModel::RowSegment prompt{.tokens = std::span(texts_[i % 5]).first(1 + i), .cache = &caches[i]};
    model_->ForwardRows({&prompt, 1}, nullptr);
    segments.push_back({.tokens = std::span(texts_[i % 5]).subspan(1 + i, 1), .cache = &caches[i]});
  }
  const at::Tensor logits = model_->ForwardRows(segments, nullptr);
  for (size_t i = 0; i < count; ++i) {
    const at::Tensor expected = Whole(i % 5)[static_cast<int64_t>(1 + i)];
    EXPECT_LT((logits[static_cast<int64_t>(i)] - expected).abs().max().item<float>(), 1e-4) << i;
  }
}

}  // namespace
}  // namespace pointsman
