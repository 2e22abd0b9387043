#include "models/generate.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "models/router_hook.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TinyGenerator : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::TinyModelShape shape;
    shape.context = 48;
    testing::WriteTinyModel(directory_.path(), shape);
    auto loaded = MoeModel::Load(directory_.path());
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::move(loaded).value();
  }

  Generation Run(const GenerateOptions& options) {
    auto result = Generate(*model_, prompt_, options);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? std::move(result).value() : Generation{};
  }

  std::string RunError(std::vector<int32_t> prompt, const GenerateOptions& options) {
    auto result = Generate(*model_, prompt, options);
    EXPECT_FALSE(result.ok());
    return result.ok() ? "" : result.error().message;
  }

  static GenerateOptions Sampling(uint64_t seed) {
    GenerateOptions options;
    options.temperature = 1.5;
    options.seed = seed;
    options.max_tokens = 20;
    return options;
  }

  testing::TemporaryDirectory directory_;
  std::unique_ptr<MoeModel> model_;
  const std::vector<int32_t> prompt_ = {72, 101, 108, 108, 111};
};

TEST_F(TinyGenerator, GreedyTokensAreTheArgmaxOfPlainForwardPasses) {
  const at::NoGradGuard no_grad;
  const Generation result = Run({.max_tokens = 12});
  std::vector<int64_t> text(prompt_.begin(), prompt_.end());
  for (int32_t token : result.tokens) {
    const at::Tensor ids = at::tensor(text).view({1, -1});
    EXPECT_EQ(model_->Forward(ids, {})[0][-1].argmax().item<int64_t>(), token);
    text.push_back(token);
  }
  EXPECT_EQ(result.text, model_->tokenizer().Decode(result.tokens));
}

TEST_F(TinyGenerator, StopsWhenTheContextIsFull) {
  GenerateOptions options = Sampling(1);
  options.max_tokens = 1000;
  const Generation result = Run(options);
  ASSERT_EQ(result.finish_reason, FinishReason::kLength);
  EXPECT_EQ(result.tokens.size(), 48 - prompt_.size() + 1);  // the last token needs no position of its own
}

TEST_F(TinyGenerator, OneSeedGivesOneTextAndSeedsDiffer) {
  EXPECT_EQ(Run(Sampling(4)).tokens, Run(Sampling(4)).tokens);
  EXPECT_NE(Run(Sampling(4)).tokens, Run(Sampling(5)).tokens);
}

TEST_F(TinyGenerator, EndsBeforeAStopString) {
  const Generation whole = Run(Sampling(4));
  ASSERT_GT(whole.text.size(), 8u);
  GenerateOptions options = Sampling(4);
  options.stop = {"not in the text", whole.text.substr(5, 3)};
  const Generation stopped = Run(options);
  EXPECT_EQ(stopped.finish_reason, FinishReason::kStop);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(options.stop[1])));
  EXPECT_EQ(stopped.tokens.size(), stopped.text.size() + 3);  // bytes are tokens here
}

TEST_F(TinyGenerator, StreamsTheSameTextWithoutPartsOfAStopString) {
  const Generation whole = Run(Sampling(4));
  GenerateOptions options = Sampling(4);
  const std::string stop = whole.text.substr(5, 3);
  options.stop = {stop};
  std::string streamed;
  options.on_token = [&](int32_t, std::string_view text) {
    streamed += text;
    return true;
  };
  EXPECT_EQ(Run(options).text, streamed);
  EXPECT_EQ(streamed.find(stop), std::string::npos);
}

TEST_F(TinyGenerator, StreamsEverythingWhenNothingStopsIt) {
  std::string streamed;
  std::vector<int32_t> tokens;
  GenerateOptions options = Sampling(6);
  options.stop = {"\x01\x02\x03\x04"};
  options.on_token = [&](int32_t token, std::string_view text) {
    streamed += text;
    if (token >= 0) tokens.push_back(token);
    return true;
  };
  const Generation result = Run(options);
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(tokens, result.tokens);
}

TEST_F(TinyGenerator, ACallbackCancels) {
  GenerateOptions options = Sampling(4);
  int calls = 0;
  options.on_token = [&](int32_t, std::string_view) { return ++calls < 3; };
  const Generation result = Run(options);
  EXPECT_EQ(result.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(result.tokens.size(), 3u);
  EXPECT_EQ(calls, 3);
}

TEST_F(TinyGenerator, RoutesEveryTokenAtItsPosition) {
  Router router;
  RouterHook hook(router);
  GenerateOptions options = Sampling(4);
  options.hook = &hook;
  options.slot =
      router.AddSlot({.tables = testing::RandomTables(24, 6, 3, testing::GateState::kHalfOpen), .session = nullptr});
  const Generation result = Run(options);
  EXPECT_EQ(router.GateHistory(options.slot).size(), prompt_.size() + result.tokens.size() - 1);
  EXPECT_NE(result.tokens, Run(Sampling(4)).tokens);
}

TEST_F(TinyGenerator, ReportsTheHooksError) {
  Router router;
  RouterHook hook(router);
  GenerateOptions options = Sampling(4);
  options.hook = &hook;
  options.slot = 9;  // never added
  EXPECT_THAT(RunError(prompt_, options), HasSubstr("9"));
}

TEST_F(TinyGenerator, AsksForTheContextBeforeThePromptAndEveryInterval) {
  std::vector<size_t> sizes;
  GenerateOptions options{.max_tokens = 10};
  options.context_interval = 4;
  options.on_context = [&](std::span<const int32_t> context, KvCache& cache) -> Result<at::Tensor> {
    EXPECT_TRUE(std::equal(prompt_.begin(), prompt_.end(), context.begin()));
    sizes.push_back(context.size());
    EXPECT_EQ(cache.length, sizes.size() == 1 ? 0 : context.size() - 1);
    return at::Tensor();
  };
  const Generation kept = Run(options);
  ASSERT_EQ(kept.tokens.size(), 10u);
  EXPECT_THAT(sizes, ElementsAre(5, 9, 13));
  EXPECT_EQ(kept.tokens, Run({.max_tokens = 10}).tokens);
}

TEST_F(TinyGenerator, GoesOnFromTheContextThatTheCallbackFilledIn) {
  // With a session that comes after four tokens: recomputed, the rest is what the whole text gives under the session.
  const at::NoGradGuard no_grad;
  Router router;
  RouterHook hook(router);
  auto session = std::make_shared<SessionVectors>();
  session->by_layer.assign(3, {9, -9, 4, 0, -4, 2});
  GenerateOptions options{.max_tokens = 8};
  options.hook = &hook;
  options.slot = router.AddSlot({.tables = nullptr, .session = nullptr, .strength = 1.0f, .shadow = false});
  options.context_interval = 4;
  options.on_context = [&](std::span<const int32_t> context, KvCache& cache) -> Result<at::Tensor> {
    if (context.size() == prompt_.size()) return at::Tensor();
    router.SetSession(options.slot, session);
    cache.length = 0;
    const at::Tensor ids = at::tensor(std::vector<int64_t>(context.begin(), context.end())).view({1, -1});
    return model_->Forward(ids, {.hook = &hook, .slots = {options.slot}, .cache = &cache, .last_only = true});
  };
  const Generation changed = Run(options);
  const Generation plain = Run({.max_tokens = 8});
  ASSERT_EQ(changed.tokens.size(), 8u);
  EXPECT_TRUE(std::equal(plain.tokens.begin(), plain.tokens.begin() + 4, changed.tokens.begin()));

  Router fresh;
  RouterHook whole(fresh);
  std::vector<int64_t> text(prompt_.begin(), prompt_.end());
  for (size_t i = 0; i < 8; ++i) {
    if (i >= 4) {
      const std::vector<uint32_t> slots{
          fresh.AddSlot({.tables = nullptr, .session = session, .strength = 1.0f, .shadow = false})};
      const at::Tensor logits = model_->Forward(at::tensor(text).view({1, -1}), {.hook = &whole, .slots = slots});
      ASSERT_TRUE(whole.status().ok());
      EXPECT_EQ(logits[0][-1].argmax().item<int64_t>(), changed.tokens[i]) << i;
    }
    text.push_back(changed.tokens[i]);
  }
}

TEST_F(TinyGenerator, ReportsTheErrorOfTheContextCallback) {
  GenerateOptions options{.max_tokens = 10};
  options.on_context = [](std::span<const int32_t>, KvCache&) -> Result<at::Tensor> {
    return Error{ErrorCode::kInternal, "nothing learned"};
  };
  EXPECT_EQ(RunError(prompt_, options), "nothing learned");
  options.context_interval = 0;
  EXPECT_THAT(RunError(prompt_, options), HasSubstr("context_interval is 0"));
}

TEST_F(TinyGenerator, RefusesBadRequestsInOneLine) {
  EXPECT_THAT(RunError({}, {}), HasSubstr("empty"));
  EXPECT_THAT(RunError(std::vector<int32_t>(49, 1), {}), HasSubstr("49 tokens but the model's context is 48"));
  EXPECT_THAT(RunError({1, 263}, {}), HasSubstr("token 263 but the vocabulary has ids 0 to 262"));
  GenerateOptions options;
  options.top_p = 0;
  EXPECT_THAT(RunError(prompt_, options), HasSubstr("top_p is 0"));
  options = {};
  options.temperature = -1;
  EXPECT_THAT(RunError(prompt_, options), HasSubstr("temperature is -1"));
  options = {};
  options.stop = {""};
  EXPECT_THAT(RunError(prompt_, options), HasSubstr("stop string is empty"));
}

TEST(SampleToken, IsGreedyAtZeroWithTiesToTheLowestId) {
  std::mt19937_64 random(0);
  EXPECT_EQ(SampleToken(std::vector<float>{1, 3, 2, 3}, 0, 1, random), 1);
}

TEST(SampleToken, DrawsByProbability) {
  std::mt19937_64 random(0);
  const std::vector<float> logits = {0, std::log(3.0f), -INFINITY};  // 1/4, 3/4, 0
  int second = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) second += SampleToken(logits, 1, 1, random);
  EXPECT_NEAR(second / double{kDraws}, 0.75, 0.015);  // 5 standard errors
}

TEST(SampleToken, KeepsTheNucleusOnly) {
  std::mt19937_64 random(0);
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.1f), std::log(0.3f)};
  std::set<int32_t> seen;
  for (int i = 0; i < 2000; ++i) seen.insert(SampleToken(logits, 1, 0.75, random));
  EXPECT_THAT(seen, ElementsAre(1, 3));
  seen.clear();
  for (int i = 0; i < 2000; ++i) seen.insert(SampleToken(logits, 1, 0.85, random));
  EXPECT_THAT(seen, ElementsAre(0, 1, 3)) << "equal probabilities: the lower id first";
}

}  // namespace
}  // namespace pointsman
