#include "adapt/rerouting.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "adapt/adam.h"
#include "adapt/objective.h"
#include "adapt/testing/tiny_text.h"

namespace pointsman {
namespace {

class ContextsOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr);
    const MoeConfig& config = model_->config();
    memory_.tables =
        testing::RandomTables(config.hidden_size, config.num_experts, config.num_layers, testing::GateState::kOff);
  }

  static Batch BatchOf(const std::vector<Sequence>& contexts) {
    std::vector<uint32_t> members(contexts.size());
    for (uint32_t i = 0; i < members.size(); ++i) members[i] = i;
    return MakeBatch(contexts, members);
  }
  Rerouted Adapted(const std::vector<Sequence>& contexts, const ReroutingOptions& options,
                   const MemoryBinding& memory = {}, const VectorBatch& start = {}) const {
    auto rerouted = Reroute(*model_, BatchOf(contexts), memory, start, options);
    EXPECT_TRUE(rerouted.ok());
    return std::move(rerouted).value();
  }
  // Mean nats per counted token of each context under the vectors.
  std::vector<double> Losses(const std::vector<Sequence>& contexts, const VectorBatch& vectors,
                             const MemoryBinding& memory = {}) const {
    const at::NoGradGuard no_grad;
    const Batch batch = BatchOf(contexts);
    ConstantMemory constant(memory, batch.ids.size(0));
    VectorHook hook(&constant, vectors);
    const at::Tensor losses = TokenLosses(*model_, batch, &hook, constant.slots());
    EXPECT_TRUE(hook.status().ok());
    std::vector<double> means;
    for (int64_t b = 0; b < losses.size(0); ++b) {
      means.push_back((losses[b].sum() / batch.weights[b].sum()).item<double>());
    }
    return means;
  }
  static double Largest(const VectorBatch& vectors, int64_t layer, int64_t row = 0) {
    return vectors[layer][row].abs().max().item<double>();
  }

  std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Sequence> contexts_ = testing::PredictableText(3, 40, /*seed=*/5);
  MemoryBinding memory_;
};

TEST_F(ContextsOfATinyModel, StepsLowerTheLossOfEachContext) {
  const Rerouted rerouted = Adapted(contexts_, {.rule = ReroutingRule::kAdam, .steps = 10, .rate = 0.05});
  const std::vector<double> frozen = Losses(contexts_, {}), after = Losses(contexts_, rerouted.vectors);
  for (size_t i = 0; i < contexts_.size(); ++i) {
    EXPECT_NEAR(rerouted.before[i], frozen[i], 1e-5);
    EXPECT_LT(after[i], frozen[i] - 1e-3);
  }
  EXPECT_EQ(rerouted.steps, 10);
}

TEST_F(ContextsOfATinyModel, NoStepsGiveTheStart) {
  const Rerouted rerouted = Adapted(contexts_, {.steps = 0});
  for (const at::Tensor& layer : rerouted.vectors) EXPECT_EQ(layer.abs().max().item<float>(), 0);
  const VectorBatch start(model_->config().num_layers, at::full({3, model_->config().num_experts}, 0.25));
  for (const at::Tensor& layer : Adapted(contexts_, {.steps = 0}, {}, start).vectors) {
    EXPECT_TRUE(at::equal(layer, start[0]));
  }
}

TEST_F(ContextsOfATinyModel, TheFirstStepFollowsTheGradient) {
  // All experts run, so that the loss has no jumps at the edge of the top-k.
  testing::TinyModelShape shape;
  shape.top_k = shape.experts;
  model_ = testing::LoadTinyModel(shape);
  ASSERT_NE(model_, nullptr);
  // Adam's first step is rate * sign(gradient): check the sign by a finite difference of the loss.
  const Rerouted rerouted = Adapted({contexts_[0]}, {.rule = ReroutingRule::kAdam, .steps = 1, .rate = 0.05});
  VectorBatch probe;
  for (const at::Tensor& layer : rerouted.vectors) probe.push_back(at::zeros_like(layer));
  int checked = 0;
  for (int64_t layer = 0; layer < model_->config().num_layers; ++layer) {
    for (int64_t expert = 0; expert < model_->config().num_experts; ++expert) {
      constexpr float kDelta = 1e-2f;
      probe[layer][0][expert] = kDelta;
      const double up = Losses({contexts_[0]}, probe)[0];
      probe[layer][0][expert] = -kDelta;
      const double down = Losses({contexts_[0]}, probe)[0];
      probe[layer][0][expert] = 0;
      if (std::abs(up - down) < 1e-5) continue;  // too flat to tell in fp32
      const double moved = rerouted.vectors[layer][0][expert].item<double>();
      EXPECT_NEAR(std::abs(moved), 0.05, 1e-3);
      EXPECT_LT(moved * (up - down), 0) << "layer " << layer << ", expert " << expert;
      ++checked;
    }
  }
  EXPECT_GT(checked, 8);
}

TEST_F(ContextsOfATinyModel, ContextsOfABatchDoNotMixAndPaddingDoesNotCount) {
  std::vector<Sequence> mixed = contexts_;
  for (auto* part : {&mixed[1].inputs, &mixed[1].targets}) part->resize(17);
  mixed[1].mask.resize(17);
  const Rerouted together = Adapted(mixed, {});
  for (int64_t b = 0; b < 3; ++b) {
    const Rerouted alone = Adapted({mixed[b]}, {});
    for (size_t layer = 0; layer < alone.vectors.size(); ++layer) {
      EXPECT_TRUE(at::allclose(together.vectors[layer][b], alone.vectors[layer][0], 1e-3, 1e-4));
    }
  }
}

TEST_F(ContextsOfATinyModel, ContextsThatAdaptDifferentLayersDoNotMix) {
  const std::vector<Sequence> contexts = testing::PredictableText(8, 40, /*seed=*/9, /*alphabet=*/200);
  for (const bool soft : {false, true}) {
    const ReroutingOptions options{
        .rate = 0.1, .layers = ReroutedLayers::kMostConfident, .layer_count = 1, .soft = soft};
    const Rerouted together = Adapted(contexts, options);
    std::vector<size_t> moved(3, 0);  // by layer: contexts
    for (size_t b = 0; b < contexts.size(); ++b) {
      const Rerouted alone = Adapted({contexts[b]}, options);
      for (size_t layer = 0; layer < alone.vectors.size(); ++layer) {
        const auto row = static_cast<int64_t>(b);
        EXPECT_TRUE(at::allclose(together.vectors[layer][row], alone.vectors[layer][0], 1e-3, 1e-4))
            << "context " << b << ", layer " << layer << ", soft " << soft;
        moved[layer] += Largest(alone.vectors, static_cast<int64_t>(layer)) > 0;
      }
    }
    EXPECT_GE(std::count_if(moved.begin(), moved.end(), [](size_t contexts) { return contexts > 0; }), 2) << soft;
  }
}

TEST_F(ContextsOfATinyModel, VectorsRouteAsASessionOfTheRouterDoes) {
  const at::NoGradGuard no_grad;
  const Rerouted rerouted = Adapted(contexts_, {}, memory_);
  const Batch batch = BatchOf({contexts_[1]});
  Router router;
  Binding binding{.tables = memory_.tables, .session = nullptr, .strength = 1.0f, .shadow = false};
  binding.session = std::make_shared<const SessionVectors>(SessionOf(rerouted.vectors, 1));
  const std::vector<uint32_t> slots{router.AddSlot(binding)};
  RouterHook session(router);
  const at::Tensor expected = model_->Forward(batch.ids, {.hook = &session, .slots = slots});
  ASSERT_TRUE(session.status().ok());

  VectorBatch one;
  for (const at::Tensor& layer : rerouted.vectors) one.push_back(layer.narrow(0, 1, 1));
  ConstantMemory constant(memory_, 1);
  VectorHook hook(&constant, one);
  const at::Tensor logits = model_->Forward(batch.ids, {.hook = &hook, .slots = constant.slots()});
  EXPECT_TRUE(at::allclose(logits, expected, 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(logits, model_->Forward(batch.ids, {}), 1e-3, 1e-3));
}

TEST_F(ContextsOfATinyModel, VectorsStartWhereTheyAreToldTo) {
  const at::NoGradGuard no_grad;
  const VectorBatch vectors(model_->config().num_layers, at::randn({1, model_->config().num_experts}));
  VectorHook late(nullptr, vectors, {25}), frozen(nullptr, {}, {});
  const Batch batch = BatchOf({contexts_[0]});
  const at::Tensor a = TokenLosses(*model_, batch, &late), b = TokenLosses(*model_, batch, &frozen);
  // Not the same bits: an expert that takes one row more or less may sum it in another order (design: 1e-4).
  EXPECT_TRUE(at::allclose(a.narrow(1, 0, 25), b.narrow(1, 0, 25), 1e-5, 1e-5));
  EXPECT_FALSE(at::allclose(a.narrow(1, 25, 15), b.narrow(1, 25, 15)));
}

TEST_F(ContextsOfATinyModel, TheGuardDecidesOnTheLastQuarter) {
  const std::vector<Sequence> contexts = testing::PredictableText(12, 40, /*seed=*/6);
  const ReroutingOptions options{.rule = ReroutingRule::kAdam, .steps = 10, .rate = 1.0};
  // The same by hand: learn from the first 30 tokens, look at the last 10.
  std::vector<Sequence> heads = contexts, tails = contexts;
  for (Sequence& s : heads) std::fill(s.mask.begin() + 30, s.mask.end(), uint8_t{0});
  for (Sequence& s : tails) std::fill(s.mask.begin(), s.mask.begin() + 30, uint8_t{0});
  const std::vector<double> before = Losses(tails, {}), after = Losses(tails, Adapted(heads, options).vectors);

  ReroutingOptions guarded = options;
  guarded.guard = true;
  const Rerouted rerouted = Adapted(contexts, guarded), unguarded = Adapted(contexts, options);
  int kept = 0;
  for (int64_t b = 0; b < 12; ++b) {
    EXPECT_EQ(rerouted.kept[b], after[b] < before[b]) << before[b] << " -> " << after[b];
    kept += rerouted.kept[b];
    for (size_t layer = 0; layer < rerouted.vectors.size(); ++layer) {
      const at::Tensor expected = rerouted.kept[b] ? unguarded.vectors[layer][b] : at::zeros({6});
      EXPECT_TRUE(at::equal(rerouted.vectors[layer][b], expected));
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, 12);
  guarded.guard_margin = 100;
  for (uint8_t k : Adapted(contexts, guarded).kept) EXPECT_EQ(k, 0);
}

TEST_F(ContextsOfATinyModel, AContextThatGetsWorseStopsOneStepBack) {
  constexpr int kSteps = 8;
  const std::vector<Sequence> contexts = testing::PredictableText(6, 40, /*seed=*/7);
  ReroutingOptions options{.rule = ReroutingRule::kAdam, .steps = 0, .rate = 2.0};
  std::vector<std::vector<double>> losses;  // [steps][context]
  for (; options.steps <= kSteps; ++options.steps) {
    losses.push_back(Losses(contexts, Adapted(contexts, options).vectors));
  }
  options.steps = kSteps;
  options.stop_early = true;
  const std::vector<double> stopped = Losses(contexts, Adapted(contexts, options).vectors);
  int stops = 0;
  for (size_t b = 0; b < contexts.size(); ++b) {
    int best = 0;  // the step before the first rise that a further step would see
    while (best < kSteps && (best + 1 == kSteps || losses[best + 1][b] <= losses[best][b])) ++best;
    EXPECT_NEAR(stopped[b], losses[best][b], 1e-4) << "context " << b << " after " << best << " steps";
    stops += best < kSteps;
  }
  EXPECT_GT(stops, 0) << "the rate is meant to be too large for some";
}

TEST_F(ContextsOfATinyModel, AStepThatHelpsTooLittleIsTheLast) {
  const std::vector<Sequence> contexts = testing::PredictableText(6, 40, /*seed=*/7);
  ReroutingOptions options{.rule = ReroutingRule::kAdam, .steps = 12, .rate = 0.02};
  std::vector<std::vector<double>> losses;  // [steps][context]
  for (options.steps = 0; options.steps <= 12; ++options.steps) {
    losses.push_back(Losses(contexts, Adapted(contexts, options).vectors));
  }
  options.steps = 12;
  options.stop_early = true;
  options.stop_below = (losses[0][0] - losses[1][0]) * 0.8;
  const std::vector<double> stopped = Losses(contexts, Adapted(contexts, options).vectors);
  int early = 0;
  for (size_t b = 0; b < contexts.size(); ++b) {
    // It is known to have helped too little only when the next step looks at the loss.
    int taken = 1;
    while (taken < 12 && losses[taken - 1][b] - losses[taken][b] > options.stop_below) ++taken;
    if (losses[taken][b] > losses[taken - 1][b]) --taken;
    EXPECT_NEAR(stopped[b], losses[taken][b], 1e-4) << "context " << b << " after " << taken << " steps";
    early += taken < 12;
  }
  EXPECT_GT(early, 0);
}

// Each token's own gradient of the context's mean loss, by a whole forward pass: [layer] = [T, E].
std::vector<at::Tensor> TokenGradients(const MoeModel& model, const Batch& batch) {
  VectorBatch rows;
  for (int64_t layer = 0; layer < model.config().num_layers; ++layer) {
    rows.push_back(at::zeros({batch.ids.size(1), model.config().num_experts}).set_requires_grad(true));
  }
  class AddRows : public RoutingHook {
   public:
    explicit AddRows(const VectorBatch& rows) : rows_(rows) {}
    void BeginStep(const StepInfo&) override {}
    at::Tensor Route(int layer, const at::Tensor&, const at::Tensor& logits) override { return logits + rows_[layer]; }
    const VectorBatch& rows_;
  } hook(rows);
  return torch::autograd::grad({TokenLosses(model, batch, &hook).sum() / batch.weights.sum()}, rows);
}

TEST_F(ContextsOfATinyModel, AnEvidenceStepDividesByHowMuchTokensDisagree) {
  const Rerouted rerouted = Adapted({contexts_[1]}, {.rule = ReroutingRule::kEvidence, .steps = 1, .rate = 0.1});
  const std::vector<at::Tensor> gradients = TokenGradients(*model_, BatchOf({contexts_[1]}));
  for (size_t layer = 0; layer < gradients.size(); ++layer) {
    const at::Tensor t = gradients[layer].sum(0) / (gradients[layer].square().sum(0).sqrt() + 1e-20);
    EXPECT_TRUE(at::allclose(rerouted.vectors[layer][0], -0.1 * t, 1e-3, 1e-4)) << "layer " << layer;
    EXPECT_GT(t.abs().max().item<float>(), 0.5);
  }
}

TEST_F(ContextsOfATinyModel, AnAgreementStepIsScaledByHowFarTheHalvesAgree) {
  size_t partly = 0;
  for (const Sequence& context : testing::PredictableText(8, 40, /*seed=*/9, /*alphabet=*/200)) {
    const auto step = [&](ReroutingRule rule) {
      return Adapted({context}, {.rule = rule, .steps = 1, .rate = 0.1}).vectors;
    };
    const auto half = static_cast<int64_t>(std::count(context.mask.begin(), context.mask.end(), 1.0f)) / 2;
    std::vector<at::Tensor> first, second;
    for (const at::Tensor& layer : TokenGradients(*model_, BatchOf({context}))) {
      const at::Tensor spread = layer.square().sum(0).sqrt() + 1e-20;
      first.push_back(layer.narrow(0, 0, half).sum(0) / spread);
      second.push_back(layer.narrow(0, half, layer.size(0) - half).sum(0) / spread);
    }
    const double cosine = at::cosine_similarity(at::cat(first), at::cat(second), 0).item<double>();
    const double part = std::clamp(cosine / kFullAgreement, 0.0, 1.0);
    partly += part > 0.01 && part < 0.99;
    const VectorBatch evidence = step(ReroutingRule::kEvidence), agreement = step(ReroutingRule::kAgreement);
    for (size_t layer = 0; layer < evidence.size(); ++layer) {
      EXPECT_TRUE(at::allclose(agreement[layer], part * evidence[layer], 1e-3, 1e-4)) << "cosine " << cosine;
    }
  }
  EXPECT_GT(partly, 0u);
}

TEST_F(ContextsOfATinyModel, OneTokenAgreesWithNothing) {
  Sequence one = contexts_[0];
  one.inputs.resize(1);
  one.targets.resize(1);
  one.mask.resize(1);
  for (const at::Tensor& layer : Adapted({one}, {}).vectors) EXPECT_EQ(layer.abs().max().item<float>(), 0);
}

TEST_F(ContextsOfATinyModel, StepsFromTheLowestAdaptedLayerAreThoseOfWholePasses) {
  // Two Adam steps on the last two layers, beside the memory, against whole passes with gradients everywhere.
  const ReroutingOptions options{
      .rule = ReroutingRule::kAdam, .steps = 2, .rate = 0.1, .layers = ReroutedLayers::kLast, .layer_count = 2};
  const Rerouted rerouted = Adapted(contexts_, options, memory_);
  const Batch batch = BatchOf(contexts_);
  VectorBatch vectors;
  std::vector<Parameter> parameters;
  for (int64_t layer = 0; layer < 3; ++layer) {
    vectors.push_back(at::zeros({3, model_->config().num_experts}).set_requires_grad(true));
    if (layer > 0) parameters.push_back({"", vectors.back(), 0.1});
  }
  Adam adam(parameters);
  for (int step = 0; step < 2; ++step) {
    ConstantMemory constant(memory_, 3);
    VectorHook hook(&constant, vectors);
    const at::Tensor losses = TokenLosses(*model_, batch, &hook, constant.slots());
    const auto gradients = torch::autograd::grad({losses.sum(1).div(batch.weights.sum(1)).sum()}, vectors);
    adam.Step(std::span(gradients).subspan(1), 1.0);
  }
  for (int64_t layer = 0; layer < 3; ++layer) {
    EXPECT_TRUE(at::allclose(rerouted.vectors[layer], vectors[layer], 1e-3, 1e-4)) << "layer " << layer;
  }
}

TEST_F(ContextsOfATinyModel, AStartBelowTheAdaptedLayersActsAndStays) {
  const VectorBatch start(
      3, at::full({3, model_->config().num_experts}, 0.0).index_fill(1, at::tensor({0, 3}, at::kLong), 1.5));
  const Rerouted rerouted =
      Adapted(contexts_, {.steps = 1, .layers = ReroutedLayers::kLast, .layer_count = 1}, {}, start);
  EXPECT_TRUE(at::equal(rerouted.vectors[0], start[0]));
  EXPECT_TRUE(at::equal(rerouted.vectors[1], start[1]));
  EXPECT_FALSE(at::equal(rerouted.vectors[2], start[2]));
  const std::vector<double> expected = Losses(contexts_, start);
  for (int b = 0; b < 3; ++b) EXPECT_NEAR(rerouted.before[b], expected[b], 1e-5);
}

TEST_F(ContextsOfATinyModel, PrefillLeavesTheCacheOfThePassWithTheVectors) {
  const at::NoGradGuard no_grad;
  const Batch batch = BatchOf(contexts_);
  ConstantMemory constant(memory_, 3);
  Rerouter rerouter(*model_, &constant, constant.slots(),
                    {.rate = 0.5, .layers = ReroutedLayers::kLast, .layer_count = 2});
  KvCache cache = model_->NewCache(3);
  const auto learned = rerouter.Learn(batch, {}, &cache);
  ASSERT_TRUE(learned.ok());
  const auto logits = rerouter.Prefill(learned.value().vectors);
  ASSERT_TRUE(logits.ok());
  EXPECT_EQ(cache.length, 40);

  ConstantMemory fresh(memory_, 3);
  VectorHook hook(&fresh, learned.value().vectors);
  KvCache expected = model_->NewCache(3);
  const at::Tensor whole =
      model_->Forward(batch.ids, {.hook = &hook, .slots = fresh.slots(), .cache = &expected, .last_only = true});
  EXPECT_TRUE(at::allclose(logits.value(), whole, 1e-4, 1e-5));
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_TRUE(at::allclose(cache.keys[layer].narrow(2, 0, 40), expected.keys[layer].narrow(2, 0, 40), 1e-4, 1e-5));
    EXPECT_TRUE(
        at::allclose(cache.values[layer].narrow(2, 0, 40), expected.values[layer].narrow(2, 0, 40), 1e-4, 1e-5));
  }
  EXPECT_FALSE(at::allclose(whole, model_->Forward(batch.ids, {.last_only = true}), 1e-2, 1e-2));
}

TEST_F(ContextsOfATinyModel, SessionsOfOneBatchRouteAsEachAlone) {
  const at::NoGradGuard no_grad;
  const Rerouted rerouted = Adapted(contexts_, {.steps = 8, .rate = 0.3});
  Router router;
  std::vector<uint32_t> slots;
  for (int64_t b = 0; b < 3; ++b) {
    slots.push_back(router.AddSlot({.tables = b == 1 ? memory_.tables : nullptr,
                                    .session = std::make_shared<const SessionVectors>(SessionOf(rerouted.vectors, b)),
                                    .strength = 1.0f,
                                    .shadow = false}));
  }
  RouterHook hook(router);
  const at::Tensor together = model_->Forward(BatchOf(contexts_).ids, {.hook = &hook, .slots = slots});
  ASSERT_TRUE(hook.status().ok());
  for (int64_t b = 0; b < 3; ++b) {
    const at::Tensor alone = model_->Forward(BatchOf({contexts_[b]}).ids, {.hook = &hook, .slots = {slots[b]}});
    EXPECT_TRUE(at::allclose(together.narrow(0, b, 1), alone, 1e-4, 1e-5)) << b;
  }
}

TEST_F(ContextsOfATinyModel, OnlyChosenLayersMove) {
  const ReroutingRule rule = ReroutingRule::kEvidence;  // agreement may leave a context as it is
  const Rerouted last = Adapted(contexts_, {.rule = rule, .layers = ReroutedLayers::kLast, .layer_count = 1});
  EXPECT_EQ(Largest(last.vectors, 0), 0);
  EXPECT_EQ(Largest(last.vectors, 1), 0);
  EXPECT_GT(Largest(last.vectors, 2), 0);
  const Rerouted most = Adapted(contexts_, {.rule = rule, .layers = ReroutedLayers::kMostConfident, .layer_count = 1});
  const Rerouted least =
      Adapted(contexts_, {.rule = rule, .layers = ReroutedLayers::kLeastConfident, .layer_count = 2});
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t layer = 0; layer < 3; ++layer) {  // 1 most + 2 least confident layers are all three
      EXPECT_NE(Largest(most.vectors, layer, b) > 0, Largest(least.vectors, layer, b) > 0);
    }
  }
  const Rerouted soft = Adapted(contexts_, {.rule = ReroutingRule::kAdam,
                                            .steps = 1,
                                            .rate = 0.05,
                                            .layers = ReroutedLayers::kLeastConfident,
                                            .soft = true});
  double smallest = 1, largest = 0;
  for (int64_t layer = 0; layer < 3; ++layer) {
    smallest = std::min(smallest, Largest(soft.vectors, layer));
    largest = std::max(largest, Largest(soft.vectors, layer));
  }
  EXPECT_NEAR(largest, 0.05, 1e-4);
  EXPECT_GT(smallest, 0);
  EXPECT_LT(smallest, largest - 1e-4);
}

TEST_F(ContextsOfATinyModel, TheWarmStartIsTheMemorysMeanChange) {
  const auto start = MeanRetrieved(*model_, BatchOf(contexts_), memory_);
  ASSERT_TRUE(start.ok());
  ASSERT_EQ(start.value().size(), 3u);
  // By the router's own trace.
  const Batch batch = BatchOf({contexts_[2]});
  Router router;
  const std::vector<uint32_t> slots{
      router.AddSlot({.tables = memory_.tables, .session = nullptr, .strength = 1.0f, .shadow = false})};
  RouterHook hook(router);
  hook.CollectTrace(true);
  {
    const at::NoGradGuard no_grad;
    model_->Forward(batch.ids, {.hook = &hook, .slots = slots});
  }
  std::vector<std::vector<double>> sums(3, std::vector<double>(model_->config().num_experts));
  for (const RowTrace& row : hook.TakeTrace()) {
    for (size_t e = 0; e < row.logits_after.size(); ++e) {
      sums[row.layer][e] += row.logits_after[e] - row.logits_before[e];
    }
  }
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (int64_t e = 0; e < model_->config().num_experts; ++e) {
      EXPECT_NEAR(start.value()[layer][2][e].item<double>(), sums[layer][e] / 40, 1e-4);
    }
  }
  const auto none = MeanRetrieved(*model_, BatchOf(contexts_), {});
  ASSERT_TRUE(none.ok());
  for (const at::Tensor& layer : none.value()) EXPECT_EQ(layer.abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace pointsman
