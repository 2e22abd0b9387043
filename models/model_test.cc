#include "models/model.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <thread>

#include "models/experts.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;
using testing::TinyModelShape;
using testing::WriteTinyModel;

std::unique_ptr<MoeModel> LoadTiny(const TinyModelShape& shape) {
  TemporaryDirectory directory;
  WriteTinyModel(directory.path(), shape);
  auto model = MoeModel::Load(directory.path());
  EXPECT_TRUE(model.ok()) << model.error().message;
  return model.ok() ? std::move(model).value() : nullptr;
}

at::Tensor RandomIds(int64_t batch, int64_t length, int64_t vocab) {
  at::manual_seed(3);
  return at::randint(0, vocab, {batch, length}, at::kLong);
}

float LargestDifference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<float>(); }

// Adds one trainable vector to the logits of every layer.
class BiasHook : public RoutingHook {
 public:
  BiasHook(int64_t layers, int64_t experts) : bias_(at::zeros({layers, experts}).set_requires_grad(true)) {}
  void BeginStep(const StepInfo& step) override { step_ = step; }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    EXPECT_TRUE(hidden.is_contiguous() && logits.is_contiguous());
    return logits + bias_[layer];
  }
  at::Tensor bias_;
  StepInfo step_;
};

at::Tensor Loss(const MoeModel& model, const at::Tensor& ids, RoutingHook* hook) {
  const at::Tensor logits = model.Forward(ids.narrow(1, 0, ids.size(1) - 1), {.hook = hook});
  // In double: the mean of fp32 logits' losses is finer than one fp32 loss near 5.5 can be.
  return at::cross_entropy_loss(logits.reshape({-1, logits.size(2)}).to(at::kDouble),
                                ids.narrow(1, 1, ids.size(1) - 1).reshape({-1}));
}

class TinyModel : public ::testing::Test {
 protected:
  const TinyModelShape shape_;
  std::unique_ptr<MoeModel> model_ = LoadTiny(shape_);
};

TEST_F(TinyModel, ReturnsLogitsOfEveryPositionOrOfTheLast) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(2, 9, shape_.vocab);
  const at::Tensor all = model_->Forward(ids, {});
  EXPECT_EQ(all.sizes(), at::IntArrayRef({2, 9, shape_.vocab}));
  const at::Tensor last = model_->Forward(ids, {.last_only = true});
  EXPECT_EQ(last.sizes(), at::IntArrayRef({2, 1, shape_.vocab}));
  EXPECT_LT(LargestDifference(last, all.narrow(1, 8, 1)), 1e-5);
}

TEST_F(TinyModel, WithoutTargetsTheRoutersSeeTheSameRowsAndNothingIsReturned) {
  class Recorder : public RoutingHook {
   public:
    void BeginStep(const StepInfo&) override {}
    at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
      EXPECT_EQ(layer, static_cast<int>(hidden_.size()));
      hidden_.push_back(hidden.clone());
      return logits;
    }
    std::vector<at::Tensor> hidden_;
  } scored, routed;
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(2, 9, shape_.vocab);
  EXPECT_EQ(model_->Losses(ids, ids, &scored, {}).sizes(), ids.sizes());
  EXPECT_FALSE(model_->Losses(ids, /*targets=*/{}, &routed, {}).defined());
  ASSERT_EQ(routed.hidden_.size(), scored.hidden_.size());
  for (size_t layer = 0; layer < scored.hidden_.size(); ++layer) {
    EXPECT_EQ(routed.hidden_[layer].size(0), ids.numel());
    EXPECT_TRUE(routed.hidden_[layer].equal(scored.hidden_[layer])) << "layer " << layer;
  }
}

TEST_F(TinyModel, DecodingTokenByTokenAgreesWithPrefill) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(2, 60, shape_.vocab);
  const at::Tensor whole = model_->Forward(ids, {});
  KvCache cache = model_->NewCache(2);
  for (int64_t t = 0; t < ids.size(1); ++t) {
    const at::Tensor step = model_->Forward(ids.narrow(1, t, 1), {.cache = &cache});
    EXPECT_LT(LargestDifference(step, whole.narrow(1, t, 1)), 1e-4) << "position " << t;
  }
  EXPECT_EQ(cache.length, 60);
}

TEST_F(TinyModel, LaterChunksSeeTheEarlierOnes) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(1, 50, shape_.vocab);
  const at::Tensor whole = model_->Forward(ids, {});
  KvCache cache = model_->NewCache(1);
  int64_t first = 0;
  for (int64_t length : {17, 1, 20, 12}) {
    const at::Tensor chunk = model_->Forward(ids.narrow(1, first, length), {.cache = &cache});
    EXPECT_LT(LargestDifference(chunk, whole.narrow(1, first, length)), 1e-4) << "chunk at " << first;
    first += length;
  }
}

TEST_F(TinyModel, APassCutOpenAtAnyLayerHasTheSameBits) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(2, 20, shape_.vocab);
  BiasHook hook(shape_.layers, shape_.experts);
  hook.bias_.copy_(at::randn_like(hook.bias_));
  const at::Tensor whole = model_->Forward(ids, {.hook = &hook});
  for (int layer = 0; layer < shape_.layers; ++layer) {
    const MoeModel::Cut cut = model_->ForwardTo(layer, ids, {.hook = &hook});
    EXPECT_EQ(cut.layer, layer);
    const at::Tensor other = model_->ForwardFrom(cut, at::randn_like(cut.logits), {.hook = &hook});
    EXPECT_GT(LargestDifference(other, whole), 1e-2);
    EXPECT_TRUE(at::equal(model_->ForwardFrom(cut, cut.logits, {.hook = &hook}), whole)) << "after another run from it";
  }
}

TEST_F(TinyModel, ACacheHoldsTheLastRunFromACut) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(1, 30, shape_.vocab);
  const at::Tensor whole = model_->Forward(ids, {});
  KvCache cache = model_->NewCache(1);
  model_->Forward(ids.narrow(1, 0, 10), {.cache = &cache});
  const MoeModel::Cut cut = model_->ForwardTo(1, ids.narrow(1, 10, 12), {.cache = &cache});
  EXPECT_EQ(cut.past, 10);
  model_->ForwardFrom(cut, at::randn_like(cut.logits), {.cache = &cache});
  EXPECT_LT(LargestDifference(model_->ForwardFrom(cut, cut.logits, {.cache = &cache}), whole.narrow(1, 10, 12)), 1e-4);
  EXPECT_EQ(cache.length, 22);
  EXPECT_LT(LargestDifference(model_->Forward(ids.narrow(1, 22, 8), {.cache = &cache}), whole.narrow(1, 22, 8)), 1e-4);
}

TEST_F(TinyModel, SequencesOfABatchDoNotMix) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(2, 100, shape_.vocab);
  const at::Tensor both = model_->Forward(ids, {});
  for (int64_t b = 0; b < 2; ++b) {
    EXPECT_LT(LargestDifference(model_->Forward(ids.narrow(0, b, 1), {}), both.narrow(0, b, 1)), 1e-4);
  }
}

TEST_F(TinyModel, TheFutureDoesNotReachThePast) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(1, 30, shape_.vocab);
  at::Tensor changed = ids.clone();
  changed.narrow(1, 20, 10).fill_(5);
  const at::Tensor a = model_->Forward(ids, {}), b = model_->Forward(changed, {});
  EXPECT_LT(LargestDifference(a.narrow(1, 0, 20), b.narrow(1, 0, 20)), 1e-5);
  EXPECT_GT(LargestDifference(a.narrow(1, 20, 10), b.narrow(1, 20, 10)), 1e-2);
}

TEST_F(TinyModel, TellsTheHookWhichRowIsWhat) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = RandomIds(2, 6, shape_.vocab);
  BiasHook hook(shape_.layers, shape_.experts);
  KvCache cache = model_->NewCache(2);
  model_->Forward(ids.narrow(1, 0, 4), {.hook = &hook, .slots = {3, 1}, .cache = &cache});
  model_->Forward(ids.narrow(1, 4, 2), {.hook = &hook, .slots = {3, 1}, .cache = &cache});
  EXPECT_THAT(hook.step_.slots, ::testing::ElementsAre(3, 3, 1, 1));
  EXPECT_THAT(hook.step_.positions, ::testing::ElementsAre(4, 5, 4, 5));
  EXPECT_EQ(hook.step_.tokens[2], ids[1][4].item<int64_t>());
  EXPECT_THAT(hook.step_.output_rows, ::testing::ElementsAre(1, 3));
}

// Central differences of the loss in one direction against its gradient.
void ExpectGradient(const MoeModel& model, at::Tensor parameter, const at::Tensor& gradient, const at::Tensor& ids,
                    RoutingHook* hook) {
  const at::NoGradGuard no_grad;
  ASSERT_TRUE(gradient.defined());
  at::manual_seed(5);
  const at::Tensor direction = at::randn_like(parameter);
  // Clipping has a kink that a step must not cross.
  const double step = model.config().clip_qkv > 0 ? 3e-4 : 1e-3;
  parameter.add_(direction, step);
  const double above = Loss(model, ids, hook).item<double>();
  parameter.sub_(direction, 2 * step);
  const double below = Loss(model, ids, hook).item<double>();
  parameter.add_(direction, step);
  const double expected = (above - below) / (2 * step);
  EXPECT_NEAR((gradient * direction).sum().item<double>(), expected, 2e-3 + 0.02 * std::abs(expected));
}

class GradientOfShape : public ::testing::TestWithParam<TinyModelShape> {};

// With every expert chosen the choice never flips, so the loss is smooth and finite differences apply.
INSTANTIATE_TEST_SUITE_P(
    Shapes, GradientOfShape,
    ::testing::Values(TinyModelShape{.layers = 2, .experts = 4, .top_k = 4},
                      TinyModelShape{.layers = 2, .kv_heads = 4, .experts = 3, .top_k = 3, .normalize = true},
                      TinyModelShape{
                          .layers = 2, .kv_heads = 1, .experts = 2, .top_k = 2, .tied = false, .clip = 0.5}));

TEST_P(GradientOfShape, OfTheHookMatchesFiniteDifferences) {
  const auto model = LoadTiny(GetParam());
  const at::Tensor ids = RandomIds(2, 12, GetParam().vocab);
  BiasHook hook(GetParam().layers, GetParam().experts);
  Loss(*model, ids, &hook).backward();
  EXPECT_GT(hook.bias_.grad().abs().min().item<float>(), 0) << "every layer and expert takes part";
  ExpectGradient(*model, hook.bias_, hook.bias_.grad(), ids, &hook);
}

TEST_P(GradientOfShape, OfEveryWeightOfATrainableCloneMatchesFiniteDifferences) {
  const auto model = LoadTiny(GetParam());
  const auto clone = model->CloneWithTrainableWeights();
  const at::Tensor ids = RandomIds(2, 12, GetParam().vocab);
  Loss(*clone, ids, nullptr).backward();
  for (const auto& [name, weight] : clone->Weights()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(weight.is_leaf());
    ExpectGradient(*clone, weight, weight.grad(), ids, nullptr);
  }
}

TEST_F(TinyModel, GradientsOfSparseRoutingReachOnlyTheChosen) {
  at::manual_seed(1);
  const at::Tensor logits = at::tensor({3.0f, 1.0f, 2.0f, 0.0f}).view({1, 4}).set_requires_grad(true);
  const ExpertWeights weights{at::randn({4, 6, 5}), at::randn({4, 5, 3})};
  const at::Tensor x = at::randn({1, 5});
  MixExperts(x, logits, weights, 2, true).sum().backward();
  EXPECT_EQ(logits.grad()[0][1].item<float>(), 0);  // renormalized: the others' mass cancels
  EXPECT_EQ(logits.grad()[0][3].item<float>(), 0);
  EXPECT_NE(logits.grad()[0][0].item<float>(), 0);
  EXPECT_NEAR(logits.grad().sum().item<float>(), 0, 1e-6);
}

TEST_F(TinyModel, ThreadsShareItWithoutChangingAnyResult) {
  const at::Tensor ids = RandomIds(4, 50, shape_.vocab);
  const at::Tensor alone = model_->Forward(ids, {});
  std::vector<at::Tensor> results(4), gradients(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] {
      BiasHook hook(shape_.layers, shape_.experts);
      Loss(*model_, ids, &hook).backward();
      gradients[i] = hook.bias_.grad();
      results[i] = model_->Forward(ids, {});
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_TRUE(at::equal(results[i], alone));
    EXPECT_TRUE(at::equal(gradients[i], gradients[0]));
  }
}

TEST_F(TinyModel, FrozenWeightsRecordNoGraph) {
  EXPECT_FALSE(model_->Forward(RandomIds(1, 4, shape_.vocab), {}).requires_grad());
}

TEST_F(TinyModel, CloneComputesTheSameAndOwnsItsWeights) {
  const at::NoGradGuard no_grad;
  const auto clone = model_->CloneWithTrainableWeights();
  const at::Tensor ids = RandomIds(1, 40, shape_.vocab);
  const at::Tensor before = model_->Forward(ids, {});
  EXPECT_TRUE(at::equal(clone->Forward(ids, {}), before));
  for (auto& [name, weight] : clone->Weights()) weight.mul_(1.5);
  EXPECT_TRUE(at::equal(model_->Forward(ids, {}), before));
  EXPECT_FALSE(at::equal(clone->Forward(ids, {}), before));
}

TEST_F(TinyModel, NamesItsWeightsAsTheHub) {
  const auto weights = model_->Weights();
  EXPECT_EQ(weights.front().first, "model.embed_tokens.weight");
  EXPECT_EQ(weights.back().first, "model.norm.weight");  // tied: no lm_head
  EXPECT_EQ(weights.size(), 2 + shape_.layers * 11u);
  EXPECT_TRUE(at::equal(model_->RouterWeight(1), weights[1 + 11 + 8].second)) << weights[1 + 11 + 8].first;
}

TEST(TopK, PrefersTheLowerIndexAmongEquals) {
  std::vector<int32_t> chosen(3);
  SelectTopK(std::vector<float>{0.2f, 0.4f, 0.4f, 0.1f, 0.4f, 0.4f}, chosen);
  EXPECT_THAT(chosen, ::testing::ElementsAre(1, 2, 4));
  SelectTopK(std::vector<float>{0.1f, 0.3f, 0.2f}, chosen);
  EXPECT_THAT(chosen, ::testing::ElementsAre(1, 2, 0));
}

class BrokenDirectory : public ::testing::Test {
 protected:
  void SetUp() override { WriteTinyModel(directory_.path(), {}); }
  std::string LoadError() {
    auto model = MoeModel::Load(directory_.path());
    EXPECT_FALSE(model.ok());
    return model.ok() ? "" : model.error().message;
  }
  TemporaryDirectory directory_;
};

TEST_F(BrokenDirectory, WithoutATensorNamesIt) {
  nlohmann::json config = testing::TinyConfig({});
  config["num_hidden_layers"] = 4;
  testing::WriteJson(directory_.path() / "config.json", config);
  EXPECT_THAT(LoadError(), HasSubstr("model.layers.3."));
}

TEST_F(BrokenDirectory, WithAnotherShapeNamesTensorAndFile) {
  nlohmann::json config = testing::TinyConfig({});
  config["intermediate_size"] = 12;
  testing::WriteJson(directory_.path() / "config.json", config);
  const std::string message = LoadError();
  EXPECT_THAT(message, HasSubstr("mlp.experts.0.gate_proj.weight"));
  EXPECT_THAT(message, HasSubstr(directory_.path().string()));
}

TEST_F(BrokenDirectory, WithATokenizerOfAnotherModelSaysSo) {
  TinyModelShape small;
  small.vocab = 100;
  WriteTinyModel(directory_.path(), small);
  EXPECT_THAT(LoadError(), HasSubstr("257 tokens but config.json says vocab_size 100"));
}

TEST_F(BrokenDirectory, WithoutFilesSaysWhichIsMissing) {
  std::filesystem::remove(directory_.path() / "tokenizer.json");
  EXPECT_THAT(LoadError(), HasSubstr("tokenizer.json"));
  std::filesystem::remove(directory_.path() / "model.safetensors");
  EXPECT_THAT(LoadError(), HasSubstr(directory_.path().string()));
}

TEST(Files, FusedExpertsGiveTheSameModel) {
  TemporaryDirectory directory;
  TinyModelShape shape;
  shape.fused_experts = true;
  WriteTinyModel(directory.path(), shape);
  auto fused = MoeModel::Load(directory.path());
  ASSERT_TRUE(fused.ok()) << fused.error().message;
  const auto weights = fused.value()->Weights();
  EXPECT_EQ(weights[10].first, "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(weights[10].second.sizes(), at::IntArrayRef({6, 20, 24}));
}

}  // namespace
}  // namespace pointsman
