#include "indexer/evaluation/rerouting_scorer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapt/testing/tiny_text.h"

namespace pointsman {
namespace {

class WindowsOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr);
    // Windows of several lengths, scored from a fixed position or from the middle on.
    for (const auto& [window, length] : {std::pair(1, 33), std::pair(3, 40)}) {
      windows_[window].inputs.resize(length);
      windows_[window].targets.resize(length);
      windows_[window].mask.resize(length);
    }
    options_.rerouting = {.steps = 3, .rate = 0.3};
    options_.memory.tables = testing::RandomTables(24, 6, 3, testing::GateState::kOff);
  }

  std::vector<SequenceScore> Scores(const std::vector<Sequence>& windows) const {
    auto scores = ScoreRerouted(*model_, windows, options_);
    EXPECT_TRUE(scores.ok());
    return std::move(scores).value();
  }

  VectorBatch LearnedFrom(const Sequence& window, size_t length) const {
    Sequence context = window;
    context.inputs.resize(length);
    context.targets.resize(length);
    context.mask.assign(length, 1);
    const std::vector<uint32_t> members{0};
    const Batch batch = MakeBatch(std::span(&context, 1), members);
    return Reroute(*model_, batch, options_.memory, {}, options_.rerouting).value().vectors;
  }

  // Losses of tokens [begin, end), read after what `cache` holds, under the vectors.
  std::vector<double> Read(const Sequence& window, size_t begin, size_t end, const VectorBatch& vectors,
                           ConstantMemory& memory, KvCache& cache) const {
    const at::NoGradGuard no_grad;
    VectorHook hook(&memory, vectors);
    const auto ids = [&](const std::vector<int32_t>& tokens) {
      return at::tensor(std::vector<int64_t>(tokens.begin() + begin, tokens.begin() + end)).view({1, -1});
    };
    const at::Tensor logits =
        model_->Forward(ids(window.inputs), {.hook = &hook, .slots = memory.slots(), .cache = &cache});
    const at::Tensor p = logits[0].log_softmax(-1).gather(1, ids(window.targets).view({-1, 1}));
    std::vector<double> losses;
    for (int64_t t = 0; t < p.size(0); ++t) losses.push_back(-p[t][0].item<double>());
    return losses;
  }

  std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Sequence> windows_ = testing::PredictableText(4, 48, /*seed=*/9);
  ReroutedScoring options_;
};

TEST_F(WindowsOfATinyModel, AreScoredAfterTheirContext) {
  const std::vector<Sequence> halves = AfterContext(windows_), fixed = AfterContext(windows_, 36, 8);
  ASSERT_EQ(halves.size(), 4u);
  EXPECT_EQ(CountTargets(halves), 24u + 17u + 24u + 20u);
  ASSERT_EQ(fixed.size(), 3u) << "the window of 33 ends within the context";
  EXPECT_EQ(CountTargets(fixed), 8u + 8u + 4u);
  EXPECT_EQ(fixed[0].mask[35], 0);
  EXPECT_EQ(fixed[0].mask[36], 1);
  EXPECT_EQ(fixed[0].mask[44], 0);
}

TEST_F(WindowsOfATinyModel, KeepReadsEachChunkUnderItsOwnVectors) {
  options_.context = 16;
  options_.interval = 10;
  const std::vector<Sequence> windows = AfterContext(windows_, 16);
  const std::vector<SequenceScore> scores = Scores(windows);
  for (size_t w = 0; w < windows.size(); ++w) {
    const size_t length = windows[w].inputs.size();
    ConstantMemory memory(options_.memory, 1);
    KvCache cache = model_->NewCache(1);
    size_t begin = 0;
    for (size_t end = 26; begin < length; end = std::min(length, end + 10)) {
      const VectorBatch vectors = LearnedFrom(windows[w], std::max<size_t>(begin, 16));
      const std::vector<double> expected = Read(windows[w], begin, end, vectors, memory, cache);
      for (size_t t = begin; t < end; ++t) {
        EXPECT_NEAR(scores[w].nll[t], t < 16 ? 0 : expected[t - begin], 2e-3) << "window " << w << ", token " << t;
      }
      begin = end;
    }
  }
}

TEST_F(WindowsOfATinyModel, RecomputeReadsEverythingUnderTheNewestVectors) {
  options_.context = 16;
  options_.interval = 10;
  options_.recompute = true;
  const std::vector<Sequence> windows = AfterContext(windows_, 16);
  const std::vector<SequenceScore> scores = Scores(windows);
  for (size_t w = 0; w < windows.size(); ++w) {
    for (size_t begin = 16; begin < windows[w].inputs.size(); begin += 10) {
      const size_t end = std::min(windows[w].inputs.size(), begin + 10);
      ConstantMemory memory(options_.memory, 1);
      KvCache cache = model_->NewCache(1);
      const std::vector<double> expected = Read(windows[w], 0, end, LearnedFrom(windows[w], begin), memory, cache);
      for (size_t t = begin; t < end; ++t) EXPECT_NEAR(scores[w].nll[t], expected[t], 2e-3) << w << ", token " << t;
    }
  }
}

TEST_F(WindowsOfATinyModel, WithoutStepsNothingIsChanged) {
  options_.rerouting.steps = 0;
  options_.memory = {};
  const std::vector<Sequence> halves = AfterContext(windows_);
  const std::vector<SequenceScore> scores = Scores(halves), frozen = ScoreSequences(*model_, halves, {}, {});
  for (size_t w = 0; w < halves.size(); ++w) EXPECT_EQ(scores[w].nll, frozen[w].nll);
}

TEST_F(WindowsOfATinyModel, TheResultDoesNotDependOnThreads) {
  std::vector<Sequence> many;
  for (int i = 0; i < 5; ++i) many.insert(many.end(), windows_.begin(), windows_.end());
  many = AfterContext(many);
  const std::vector<SequenceScore> one = Scores(many);
  options_.threads = 3;
  const std::vector<SequenceScore> three = Scores(many);
  for (size_t w = 0; w < many.size(); ++w) EXPECT_EQ(one[w].nll, three[w].nll);
}

}  // namespace
}  // namespace pointsman
