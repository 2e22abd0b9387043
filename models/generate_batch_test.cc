#include "models/generate_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/router_hook.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using ::testing::HasSubstr;

class TinyBatch : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::TinyModelShape shape;
    shape.context = 48;
    testing::WriteTinyModel(directory_.path(), shape);
    auto loaded = MoeModel::Load(directory_.path());
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::move(loaded).value();
    for (uint64_t i = 0; i < 6; ++i) {
      BatchPrompt prompt{.tokens = {72, 101, 108}, .seed = 40 + i, .slot = 0};
      for (uint64_t j = 0; j < 3 * i; ++j) prompt.tokens.push_back(static_cast<int32_t>(60 + 7 * i + j));
      prompts_.push_back(prompt);
    }
  }

  static GenerateOptions Sampling() {
    GenerateOptions options;
    options.temperature = 1.2;
    options.top_p = 0.9;
    options.max_tokens = 24;
    return options;
  }

  std::vector<Generation> Batch(const GenerateOptions& options) {
    auto result = GenerateBatch(*model_, prompts_, options);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? std::move(result).value() : std::vector<Generation>{};
  }

  Generation Alone(size_t i, GenerateOptions options) {
    options.seed = prompts_[i].seed;
    auto result = Generate(*model_, prompts_[i].tokens, options);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? std::move(result).value() : Generation{};
  }

  void ExpectEachAsAlone(const GenerateOptions& options) {
    const std::vector<Generation> batch = Batch(options);
    ASSERT_EQ(batch.size(), prompts_.size());
    for (size_t i = 0; i < batch.size(); ++i) {
      const Generation alone = Alone(i, options);
      EXPECT_EQ(batch[i].tokens, alone.tokens) << i;
      EXPECT_EQ(batch[i].text, alone.text) << i;
      EXPECT_EQ(batch[i].finish_reason, alone.finish_reason) << i;
    }
  }

  testing::TemporaryDirectory directory_;
  std::unique_ptr<MoeModel> model_;
  std::vector<BatchPrompt> prompts_;
};

TEST_F(TinyBatch, EveryRowIsWhatItsPromptAndSeedGiveAlone) {
  ExpectEachAsAlone(Sampling());
  ExpectEachAsAlone({.max_tokens = 9});
}

TEST_F(TinyBatch, RowsEndWhereTheContextOrAStopStringEndsThem) {
  GenerateOptions options = Sampling();
  options.max_tokens = 1000;  // the context of 48 ends first, for each row at another length
  ExpectEachAsAlone(options);
  options.stop = {Alone(2, Sampling()).text.substr(5, 2), "e"};
  ExpectEachAsAlone(options);
}

TEST_F(TinyBatch, RowsKeepTheirOwnGateBesideOthers) {
  const auto tables = testing::RandomTables(24, 6, 3, testing::GateState::kHalfOpen);
  Router router;
  RouterHook hook(router);
  GenerateOptions options = Sampling();
  options.hook = &hook;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    Binding binding;
    if (i % 2 == 0) binding.tables = tables;
    prompts_[i].slot = router.AddSlot(std::move(binding));
  }
  const std::vector<Generation> batch = Batch(options);
  std::vector<Generation> frozen;
  for (size_t i = 0; i < batch.size(); ++i) {
    Router own;
    RouterHook own_hook(own);
    GenerateOptions alone = Sampling();
    alone.hook = &own_hook;
    Binding binding;
    if (i % 2 == 0) binding.tables = tables;
    alone.slot = own.AddSlot(std::move(binding));
    EXPECT_EQ(batch[i].tokens, Alone(i, alone).tokens) << i;
    if (i % 2 == 0) {
      EXPECT_NE(batch[i].tokens, Alone(i, Sampling()).tokens) << i << ": the memory must act";
    }
  }
}

TEST_F(TinyBatch, EnoughEndsARow) {
  const auto result =
      GenerateBatch(*model_, prompts_, {.max_tokens = 20}, [](std::string_view text) { return text.size() >= 5; });
  ASSERT_TRUE(result.ok());
  for (const Generation& row : result.value()) {
    EXPECT_EQ(row.finish_reason, FinishReason::kStop);
    EXPECT_GE(row.text.size(), 5u);
    ASSERT_FALSE(row.tokens.empty());
    const std::span before(row.tokens.data(), row.tokens.size() - 1);
    EXPECT_LT(model_->tokenizer().Decode(before).size(), 5u) << "it went on too long";
  }
}

TEST_F(TinyBatch, ABadPromptIsNamed) {
  prompts_[3].tokens.clear();
  const auto result = GenerateBatch(*model_, prompts_, Sampling());
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("the prompt is empty"));
  EXPECT_TRUE(GenerateBatch(*model_, {}, Sampling()).value().empty());
}

}  // namespace
}  // namespace pointsman
