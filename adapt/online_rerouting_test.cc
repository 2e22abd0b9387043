#include "adapt/online_rerouting.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapt/testing/tiny_text.h"
#include "models/generate.h"

namespace pointsman {
namespace {

// A greedy generation of 12 tokens after 9 of prompt, learned for anew every 4 tokens.
class GenerationWithRerouting : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr);
    memory_ = testing::RandomTables(24, 6, 3, testing::GateState::kHalfOpen);
  }

  std::vector<int32_t> Run(OnlineReroutingOptions options, SessionVectors* last = nullptr) {
    Router router;
    RouterHook hook(router);
    GenerateOptions generate{.max_tokens = 12};
    generate.ignore_end = true;
    generate.hook = &hook;
    generate.slot = router.AddSlot({.tables = memory_, .session = nullptr, .strength = 1.0f, .shadow = false});
    generate.context_interval = 4;
    OnlineRerouting rerouting(*model_, router, hook, generate.slot, std::move(options));
    generate.on_context = [&](std::span<const int32_t> context, KvCache& cache) {
      return rerouting.OnContext(context, cache);
    };
    const auto generation = Generate(*model_, prompt_, generate);
    EXPECT_TRUE(generation.ok()) << generation.error().message;
    if (last) *last = rerouting.vectors();
    // The gate has seen every token that was read.
    EXPECT_EQ(router.GateHistory(generate.slot).size(), prompt_.size() + 11);
    return generation.ok() ? generation.value().tokens : std::vector<int32_t>();
  }

  static ReroutingOptions Bold() {
    return {
        .rule = ReroutingRule::kEvidence, .steps = 2, .rate = 1.0, .layers = ReroutedLayers::kLast, .layer_count = 2};
  }

  std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::shared_ptr<const RoutingTables> memory_;
  std::vector<int32_t> prompt_{5, 38, 7, 52, 5, 38, 7, 52, 5};
};

TEST_F(GenerationWithRerouting, FillingTheCacheGivesWhatReadingTheTextGives) {
  SessionVectors filled, read;
  const auto tokens = Run({.rerouting = Bold()}, &filled);
  EXPECT_EQ(tokens, Run({.rerouting = Bold(), .fill_cache = false}, &read));
  ASSERT_EQ(filled.by_layer.size(), 3u);
  for (size_t layer = 0; layer < 3; ++layer) {
    for (size_t e = 0; e < 6; ++e) EXPECT_NEAR(filled.by_layer[layer][e], read.by_layer[layer][e], 1e-4);
  }
  EXPECT_NE(tokens, Run({.rerouting = {.steps = 0}})) << "the vectors are meant to be felt";
}

TEST_F(GenerationWithRerouting, RecomputedTextHasTheNewestVectorsEverywhere) {
  SessionVectors vectors;
  const auto tokens = Run({.rerouting = Bold(), .recompute = true}, &vectors);
  // The last learning was after 8 new tokens: the 9th to 12th follow from the whole text under its vectors.
  const at::NoGradGuard no_grad;
  Router router;
  RouterHook hook(router);
  std::vector<int64_t> text(prompt_.begin(), prompt_.end());
  for (size_t i = 0; i < 12; ++i) {
    if (i >= 8) {
      const std::vector<uint32_t> slots{router.AddSlot({.tables = memory_,
                                                        .session = std::make_shared<const SessionVectors>(vectors),
                                                        .strength = 1.0f,
                                                        .shadow = false})};
      const at::Tensor logits = model_->Forward(at::tensor(text).view({1, -1}), {.hook = &hook, .slots = slots});
      EXPECT_EQ(logits[0][-1].argmax().item<int64_t>(), tokens[i]) << i;
    }
    text.push_back(tokens[i]);
  }
}

TEST_F(GenerationWithRerouting, ASessionGoesOnFromItsStart) {
  SessionVectors first, second;
  Run({.rerouting = Bold()}, &first);
  const auto carried = Run({.rerouting = {.steps = 0}, .start = first}, &second);
  EXPECT_EQ(second.by_layer, first.by_layer);
  EXPECT_NE(carried, Run({.rerouting = {.steps = 0}}));
  Run({.rerouting = Bold(), .start = first}, &second);
  EXPECT_NE(second.by_layer, first.by_layer);
}

TEST_F(GenerationWithRerouting, AFedTextGivesWhatItsPromptGivesAndSaysHowItsLossFell) {
  Router router;
  RouterHook hook(router);
  const uint32_t slot = router.AddSlot({.tables = memory_, .session = nullptr, .strength = 1.0f, .shadow = false});
  OnlineRerouting fed(*model_, router, hook, slot, {.rerouting = Bold()}), read(fed);
  const auto result = fed.Feed(prompt_);
  ASSERT_TRUE(result.ok()) << result.error().message;
  KvCache cache = model_->NewCache(1);
  ASSERT_TRUE(read.OnContext(prompt_, cache).ok());
  EXPECT_EQ(fed.vectors().by_layer, read.vectors().by_layer);
  EXPECT_TRUE(result.value().kept);
  EXPECT_LT(result.value().loss_after, result.value().loss_before);
  // The losses are those of passes over the text with the vectors, and without.
  for (const bool after : {false, true}) {
    const at::NoGradGuard no_grad;
    router.SetSession(slot, after ? std::make_shared<const SessionVectors>(fed.vectors()) : nullptr);
    const std::vector<int64_t> ids(prompt_.begin(), prompt_.end());
    const at::Tensor logits = model_->Forward(at::tensor(ids).view({1, -1}), {.hook = &hook, .slots = {slot}});
    const double loss =
        at::cross_entropy_loss(logits[0].narrow(0, 0, 8), at::tensor(ids).narrow(0, 1, 8)).item<double>();
    EXPECT_NEAR(after ? result.value().loss_after : result.value().loss_before, loss, 1e-4);
  }
}

TEST_F(GenerationWithRerouting, FeedingUnderAGuardThatNothingPassesKeepsTheStart) {
  Router router;
  RouterHook hook(router);
  const SessionVectors start{.by_layer = {{}, {1, -1, 0, 0, 0, 0}, {}}};
  ReroutingOptions strict = Bold();
  strict.guard = true;
  strict.guard_margin = 100;
  OnlineRerouting rerouting(*model_, router, hook, router.AddSlot({}), {.rerouting = strict, .start = start});
  const auto result = rerouting.Feed(prompt_);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_FALSE(result.value().kept);
  EXPECT_EQ(rerouting.vectors().by_layer[1], start.by_layer[1]);
  EXPECT_NEAR(result.value().loss_after, result.value().loss_before, 1e-6);
}

TEST_F(GenerationWithRerouting, ASingleTokenKeepsTheStart) {
  prompt_ = {7};
  SessionVectors start{.by_layer = {{}, {1, -1, 0, 0, 0, 0}, {}}}, last;
  Router router;
  RouterHook hook(router);
  const uint32_t slot = router.AddSlot({});
  OnlineRerouting rerouting(*model_, router, hook, slot, {.rerouting = Bold(), .start = start});
  KvCache cache = model_->NewCache(1);
  const auto logits = rerouting.OnContext(prompt_, cache);
  ASSERT_TRUE(logits.ok());
  EXPECT_FALSE(logits.value().defined());
  EXPECT_EQ(rerouting.vectors().by_layer, start.by_layer);
}

}  // namespace
}  // namespace pointsman
