#include "daemon/api/completion_request.h"

#include <gtest/gtest.h>

#include "daemon/api/testing/api_parts.h"

namespace pointsman {
namespace {

using nlohmann::json;

// Requests to a model with a context of 256 tokens whose tokens are bytes, and without a chat template.
class CompletionRequestTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { parts_ = new testing::ApiParts(); }
  static void TearDownTestSuite() { delete std::exchange(parts_, nullptr); }

  static std::variant<CompletionRequest, ApiError> Parse(const json& body, bool chat = false) {
    return ParseCompletionRequest(body, chat, parts_->model->tokenizer(), ChatEncoderOf(*parts_->context),
                                  {.context = 256, .vocabulary = 263});
  }
  static CompletionRequest Good(const json& body, bool chat = false) {
    auto parsed = Parse(body, chat);
    if (const auto* error = std::get_if<ApiError>(&parsed)) {
      ADD_FAILURE() << error->message;
      return {};
    }
    return std::get<CompletionRequest>(std::move(parsed));
  }
  static void ExpectError(const json& body, bool chat, ApiCode code, const std::string& param,
                          const std::string& words) {
    const auto parsed = Parse(body, chat);
    const auto* error = std::get_if<ApiError>(&parsed);
    ASSERT_NE(error, nullptr) << body;
    EXPECT_EQ(error->code, code) << error->message;
    EXPECT_EQ(error->param, param) << error->message;
    EXPECT_NE(error->message.find(words), std::string::npos) << error->message;
  }
  static std::string TextOf(const CompletionRequest& request) {
    return parts_->model->tokenizer().Decode(request.prompts.at(0), false);
  }

  static inline testing::ApiParts* parts_ = nullptr;
};

TEST_F(CompletionRequestTest, DefaultsAreOpenAis) {
  const CompletionRequest text = Good({{"prompt", "ab"}});
  EXPECT_EQ(text.prompts, (std::vector<std::vector<int32_t>>{{'a', 'b'}}));
  EXPECT_EQ(text.max_tokens, 16);
  EXPECT_EQ(text.temperature, 1);
  EXPECT_EQ(text.n, 1);
  EXPECT_FALSE(text.stream || text.logprobs || text.echo || text.explain || text.seed_given);
  EXPECT_EQ(text.memory_choice, CompletionRequest::Memory::kDefault);
  const CompletionRequest chat = Good({{"messages", {{{"role", "user"}, {"content", "hi"}}}}}, true);
  EXPECT_EQ(chat.max_tokens, 256);
  EXPECT_NE(text.seed, Good({{"prompt", "ab"}}).seed);  // drawn anew; the same twice in 2^32
}

TEST_F(CompletionRequestTest, PromptsComeInFourForms) {
  const std::vector<std::vector<int32_t>> ab = {{'a', 'b'}}, two = {{'a'}, {'b', 'c'}};
  EXPECT_EQ(Good({{"prompt", {97, 98}}}).prompts, ab);
  EXPECT_EQ(Good({{"prompt", {97, 98}}}).prompt_texts.at(0), "ab");
  EXPECT_EQ(Good({{"prompt", {"a", "bc"}}}).prompts, two);
  EXPECT_EQ(Good({{"prompt", {json::array({97}), json::array({98, 99})}}}).prompts, two);
  ExpectError({{"prompt", {97, 263}}}, false, ApiCode::kInvalidValue, "prompt", "outside of 0..262");
  ExpectError({{"prompt", {"a", 1}}}, false, ApiCode::kInvalidValue, "prompt", "list of strings");
  ExpectError({{"prompt", ""}}, false, ApiCode::kInvalidValue, "prompt", "no text to go on from");
  ExpectError({{"prompt", std::string(256, 'x')}}, false, ApiCode::kContextExceeded, "prompt", "256 tokens");
  ExpectError(json::object(), false, ApiCode::kInvalidValue, "prompt", "missing");
}

TEST_F(CompletionRequestTest, PromptsTimesChoicesHaveABound) {
  EXPECT_EQ(Good({{"prompt", {"a", "b"}}, {"n", 8}}).prompts.size(), 2u);
  ExpectError({{"prompt", {"a", "b"}}, {"n", 9}}, false, ApiCode::kInvalidValue, "n", "at most 16");
}

TEST_F(CompletionRequestTest, WhatWouldChangeTheAnswerIsRefusedAndTheRestIgnored) {
  for (const char* field : {"tools", "functions", "suffix", "reasoning_effort"}) {
    ExpectError({{"prompt", "a"}, {field, "x"}}, false, ApiCode::kUnprocessable, field, "leave it out");
  }
  ExpectError({{"prompt", "a"}, {"presence_penalty", 0.5}}, false, ApiCode::kUnprocessable, "presence_penalty", "as 0");
  ExpectError({{"prompt", "a"}, {"best_of", 2}}, false, ApiCode::kUnprocessable, "best_of", "as n");
  ExpectError({{"prompt", "a"}, {"temprature", 1}}, false, ApiCode::kInvalidValue, "temprature", "temperature");
  Good({{"prompt", "a"},
        {"tools", json::array()},
        {"presence_penalty", 0},
        {"logit_bias", json::object()},
        {"best_of", 1},
        {"user", "me"},
        {"response_format", {{"type", "text"}}}});
}

TEST_F(CompletionRequestTest, ValuesAreCheckedByName) {
  ExpectError({{"prompt", "a"}, {"temperature", 2.1}}, false, ApiCode::kInvalidValue, "temperature", "between 0 and 2");
  ExpectError({{"prompt", "a"}, {"top_p", 0}}, false, ApiCode::kInvalidValue, "top_p", "above 0");
  ExpectError({{"prompt", "a"}, {"stop", {"a", ""}}}, false, ApiCode::kInvalidValue, "stop", "1 to 256 bytes");
  ExpectError({{"prompt", "a"}, {"stop", {"a", "b", "c", "d", "e"}}}, false, ApiCode::kInvalidValue, "stop", "4");
  ExpectError({{"prompt", "a"}, {"logprobs", 2}, {"echo", true}}, false, ApiCode::kUnprocessable, "echo", "logprobs");
  ExpectError({{"prompt", "a"}, {"stream_options", {{"include_usage", true}}}}, false, ApiCode::kInvalidValue,
              "stream_options", "stream true");
  ExpectError({{"messages", {{{"content", "a"}}}}, {"top_logprobs", 2}}, true, ApiCode::kInvalidValue, "top_logprobs",
              "logprobs true");
}

TEST_F(CompletionRequestTest, NullMemoryIsAnotherThingThanNone) {
  EXPECT_EQ(Good({{"prompt", "a"}, {"memory", nullptr}}).memory_choice, CompletionRequest::Memory::kFrozen);
  const CompletionRequest named = Good({{"prompt", "a"}, {"memory", "notes"}, {"strength", 0.5}});
  EXPECT_EQ(named.memory_choice, CompletionRequest::Memory::kNamed);
  EXPECT_EQ(named.memory, "notes");
  EXPECT_EQ(named.strength, 0.5);
}

TEST_F(CompletionRequestTest, RewireHasDefaultsAFormOfItsOwnAndAPath) {
  EXPECT_FALSE(Good({{"prompt", "a"}, {"rewire", false}}).rewire);
  EXPECT_EQ(Good({{"prompt", "a"}, {"rewire", true}}).rewire->interval, 128);
  const auto rewire =
      Good({{"prompt", "a"},
            {"rewire", {{"steps", 3}, {"lr", 0.5}, {"interval", 8}, {"guard", 0.25}, {"kv", "recompute"}}}})
          .rewire;
  ASSERT_TRUE(rewire);
  EXPECT_EQ(rewire->rerouting.steps, 3);
  EXPECT_EQ(rewire->rerouting.rate, 0.5);
  EXPECT_EQ(rewire->interval, 8);
  EXPECT_TRUE(rewire->rerouting.guard && rewire->recompute);
  EXPECT_EQ(rewire->rerouting.guard_margin, 0.25);
  EXPECT_FALSE(Good({{"prompt", "a"}, {"rewire", {{"guard", false}}}}).rewire->rerouting.guard);
  const auto stops = Good({{"prompt", "a"}, {"rewire", {{"steps", 10}, {"stop", 0.002}}}}).rewire->rerouting;
  EXPECT_TRUE(stops.stop_early && !stops.guard);
  EXPECT_EQ(stops.stop_below, 0.002);
  EXPECT_TRUE(Good({{"prompt", "a"}, {"rewire", {{"stop", true}}}}).rewire->rerouting.stop_early);
  ExpectError({{"prompt", "a"}, {"rewire", {{"stop", "soon"}}}}, false, ApiCode::kInvalidValue, "rewire.stop",
              "nats per token");
  ExpectError({{"prompt", "a"}, {"rewire", {{"steps", 51}}}}, false, ApiCode::kInvalidValue, "rewire.steps",
              "rewire.steps: 51");
  ExpectError({{"prompt", "a"}, {"rewire", {{"step", 5}}}}, false, ApiCode::kInvalidValue, "rewire.step",
              "rewire.step");
}

TEST_F(CompletionRequestTest, TheDefaultChatFormIsPlainText) {
  const json messages = {{{"role", "system"}, {"content", "Be brief."}},
                         {{"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}}}},
                         {{"role", "assistant"}, {"content", "c"}, {"refusal", nullptr}, {"tool_calls", nullptr}},
                         {{"role", "user"}, {"content", "d"}, {"annotations", json::array()}}};
  EXPECT_EQ(TextOf(Good({{"messages", messages}}, true)),
            "Be brief.\n\nUser: ab\n\nAssistant: c\n\nUser: d\n\nAssistant:");
  // A message cannot write the control token.
  const CompletionRequest forged = Good({{"messages", {{{"content", "<|endoftext|>"}}}}}, true);
  EXPECT_EQ(std::ranges::count(forged.prompts.at(0), 256), 0);
}

TEST_F(CompletionRequestTest, ToolsInChatsAreRefusedByName) {
  for (const char* role : {"tool", "function"}) {
    ExpectError({{"messages", {{{"role", role}, {"content", "42"}}}}}, true, ApiCode::kUnprocessable,
                "messages[0].role", "tools are not supported");
  }
  ExpectError({{"messages", {{{"content", "a"}}, {{"role", "assistant"}, {"content", "b"}, {"tool_calls", {1}}}}}},
              true, ApiCode::kUnprocessable, "messages[1].tool_calls", "leave it out");
  ExpectError({{"messages", {{{"role", "boss"}, {"content", "a"}}}}}, true, ApiCode::kInvalidValue, "messages[0].role",
              "system, developer, user, assistant");
  ExpectError({{"messages", {{{"content", {{{"type", "image_url"}}}}}}}}, true, ApiCode::kUnprocessable,
              "messages[0].content", "only text");
  ExpectError({{"messages", json::array()}}, true, ApiCode::kInvalidValue, "messages", "at least one");
  ExpectError({{"messages", {{{"content", "a"}}}}, {"chat_template_kwargs", {{"x", 1}}}}, true, ApiCode::kUnprocessable,
              "chat_template_kwargs", "without a template");
}

}  // namespace
}  // namespace pointsman
