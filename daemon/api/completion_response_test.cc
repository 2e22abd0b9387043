#include "daemon/api/completion_response.h"

#include <gtest/gtest.h>

#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using nlohmann::json;

// Tokens are bytes; 0xe2 alone is a part of a character.
class CompletionResponseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteByteTokenizer(folder_.path() / "tokenizer.json");
    auto loaded = Tokenizer::Load(folder_.path() / "tokenizer.json");
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    tokenizer_ = std::move(loaded).value();
  }
  static TokenOutput Token(int32_t id, std::string text, float gate = 0, float confidence = 0) {
    return {.token = id,
            .text = std::move(text),
            .logprob = -0.5f,
            .top = {{id, -0.5f}, {0xe2, -1}},
            .gate = gate,
            .confidence = confidence};
  }
  static CompletionHead Head(bool chat, bool logprobs) {
    return {.chat = chat, .id = "cmpl-1", .created = 7, .model = "tiny", .logprobs = logprobs};
  }

  testing::TemporaryDirectory folder_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(CompletionResponseTest, AWholeAnswerCountsAndAveragesItsTokens) {
  std::vector<ChoiceState> choices(2);
  choices[0].Add(Token('a', "a", 1, 0.5f), false);
  choices[0].Add(Token('b', "b", 0, 0), false);
  TokenOutput rest;  // text that was held back is no token
  rest.text = "!";
  choices[0].Add(rest, false);
  choices[1].index = 1;
  choices[1].Add(Token('c', "c", 1, 0.25f), false);
  for (ChoiceState& choice : choices) choice.finish_reason = "length";
  choices[1].done.decode_s = 0.25;
  const RoutingSummary routing{.memory = "notes", .generation = 3, .session = "s-1", .shadow = true, .seed = 9};
  const json body = CompletionJson(Head(false, false), choices, {}, 5, routing, *tokenizer_);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"][0]["text"], "ab!");
  EXPECT_EQ(body["choices"][1]["index"], 1);
  EXPECT_EQ(body["choices"][0]["logprobs"], nullptr);
  EXPECT_EQ(body["usage"], (json{{"prompt_tokens", 5}, {"completion_tokens", 3}, {"total_tokens", 8}}));
  const json& summary = body["pointsman"];
  EXPECT_NEAR(summary["gate_mean"].get<double>(), 2.0 / 3, 1e-9);
  EXPECT_NEAR(summary["confidence_mean"].get<double>(), 0.25, 1e-9);
  EXPECT_EQ(summary["open_tokens"], 2);
  EXPECT_EQ(summary["decode_ms"], 250);
  EXPECT_EQ(summary["memory"], "notes");
  EXPECT_EQ(summary["generation"], 3);
  EXPECT_EQ(summary["session"], "s-1");
  EXPECT_EQ(summary["shadow"], true);
  EXPECT_TRUE(choices[0].tokens.empty());  // kept where somebody asks for them
}

TEST_F(CompletionResponseTest, AFrozenAnswerSaysSoAndHasNoGeneration) {
  std::vector<ChoiceState> choices(1);
  choices[0].finish_reason = "stop";
  const json body = CompletionJson(Head(true, false), choices, {}, 1, {}, *tokenizer_);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["choices"][0]["message"], (json{{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}));
  EXPECT_EQ(body["pointsman"]["memory"], nullptr);
  EXPECT_FALSE(body["pointsman"].contains("generation"));
  EXPECT_EQ(body["pointsman"]["gate_mean"], 0);  // of no tokens
}

TEST_F(CompletionResponseTest, LogprobsOfPartsOfCharactersShowTheirBytes) {
  ChoiceState choice;
  choice.finish_reason = "stop";
  choice.Add(Token('a', "a"), true);
  choice.Add(Token(0xe2, ""), true);
  const json text = CompletionJson(Head(false, true), std::span(&choice, 1), {}, 1, {}, *tokenizer_)["choices"][0];
  EXPECT_EQ(text["logprobs"]["tokens"], (json{"a", "bytes:\\xe2"}));
  EXPECT_EQ(text["logprobs"]["text_offset"], (json{0, 1}));
  EXPECT_EQ(text["logprobs"]["top_logprobs"][0], (json{{"a", -0.5}, {"bytes:\\xe2", -1}}));
  const json chat = CompletionJson(Head(true, true), std::span(&choice, 1), {}, 1, {}, *tokenizer_)["choices"][0];
  EXPECT_EQ(chat["logprobs"]["content"][1]["bytes"], json::array({0xe2}));
  EXPECT_EQ(chat["logprobs"]["content"][0]["top_logprobs"].size(), 2u);
}

TEST_F(CompletionResponseTest, ChunksHaveTheRoleOnceAndTheEndsReason) {
  const TokenOutput a = Token('a', "a");
  const json first = ChunkJson(Head(true, false), 0, "a", std::span(&a, 1), nullptr, true, *tokenizer_);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"], (json{{"role", "assistant"}, {"content", "a"}}));
  EXPECT_EQ(first["choices"][0]["finish_reason"], nullptr);
  const json last = ChunkJson(Head(true, false), 0, "", {}, "stop", false, *tokenizer_);
  EXPECT_EQ(last["choices"][0]["delta"], json::object());
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
  const json usage = UsageChunkJson(Head(false, false), 2, std::vector<ChoiceState>(1));
  EXPECT_EQ(usage["choices"], json::array());
  EXPECT_EQ(usage["usage"]["total_tokens"], 2);
  EXPECT_EQ(ServerSentEvent({{"a", "\xff\n"}}), "data: {\"a\":\"\xef\xbf\xbd\\n\"}\n\n");  // one line, UTF-8 always
}

}  // namespace
}  // namespace pointsman
