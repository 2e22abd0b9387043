#include "daemon/json_body.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

using nlohmann::json;
constexpr const char* kJson = "application/json";

ApiError Refused(std::string_view body, const JsonLimits& limits = {}) {
  auto parsed = ParseJsonBody(body, kJson, limits);
  const auto* error = std::get_if<ApiError>(&parsed);
  EXPECT_NE(error, nullptr) << body;
  return error ? *error : ApiError{};
}

TEST(JsonBodyTest, GivesWhatNlohmannGives) {
  for (const char* text : {R"({"a": [1, -2, 3.5, "x", null, true, {"b": {}}], "c": []})", "[]", "1", "\"x\"",
                           R"([[1],[2,[3]]])", R"({"unicode": "\u00e9\ud83d\ude00"})"}) {
    auto parsed = ParseJsonBody(text, kJson);
    ASSERT_TRUE(std::holds_alternative<json>(parsed)) << text;
    EXPECT_EQ(std::get<json>(parsed), json::parse(text));
  }
}

TEST(JsonBodyTest, WhatIsNoJsonIsRefusedWithThePlace) {
  EXPECT_EQ(Refused("").message, "body: empty; send a JSON object");
  EXPECT_EQ(Refused(R"({"a": 1,})").message, "body: not JSON from byte 9 on");
  for (const char* text : {"{", "nul", "{\"a\":\x01\"}", "{\"a\": \"\xff\"}", "[1] x", "NaN", "[01]", "\xef\xbb\xbf"}) {
    EXPECT_EQ(Refused(text).code, ApiCode::kInvalidRequest) << text;
  }
  EXPECT_EQ(Refused(R"({"a": 1, "b": {"c": 1, "c": 2}})").message, "body: the key 'c' comes twice in one object");
  EXPECT_EQ(Refused("1e999").code, ApiCode::kInvalidRequest);
}

TEST(JsonBodyTest, DepthAndNumberOfValuesAreLimited) {
  const std::string deep = std::string(40, '[') + std::string(40, ']');
  EXPECT_EQ(Refused(deep).message, "body: nested deeper than 32");
  EXPECT_EQ(Refused(std::string(1'000'000, '[')).code, ApiCode::kPayloadTooLarge);
  EXPECT_EQ(Refused("[1,2,3,4]", {.depth = 4, .values = 4}).message, "body: more than 4 values");
  EXPECT_TRUE(std::holds_alternative<json>(ParseJsonBody("[1,2,3]", kJson, {.depth = 1, .values = 4})));
}

TEST(JsonBodyTest, TheContentTypeMustBeJson) {
  EXPECT_TRUE(std::holds_alternative<json>(ParseJsonBody("{}", "Application/JSON ; charset=utf-8")));
  for (const char* type : {"", "text/plain", "application/jsonp", "application/x-www-form-urlencoded"}) {
    auto parsed = ParseJsonBody("{}", type);
    ASSERT_TRUE(std::holds_alternative<ApiError>(parsed)) << type;
    EXPECT_EQ(std::get<ApiError>(parsed).code, ApiCode::kUnsupportedMedia);
  }
}

TEST(FieldReaderTest, ReadsFieldsAndKeepsFallbacks) {
  const json body = json::parse(R"({"n": 3, "whole": 4.0, "t": 0.5, "name": "x", "on": true, "none": null,
                                    "list": ["a", "b"], "ids": [1, 2]})");
  FieldReader fields(body);
  EXPECT_EQ(fields.Integer("n", 1, 1, 5), 3);
  EXPECT_EQ(fields.Integer("whole", 1, 1, 5), 4);
  EXPECT_EQ(fields.Integer("absent", 7, 1, 5), 7);
  EXPECT_EQ(fields.Real("t", 1, 0, 2), 0.5);
  EXPECT_EQ(fields.Text("name", ""), "x");
  EXPECT_TRUE(fields.Flag("on", false));
  EXPECT_FALSE(fields.Has("none"));
  EXPECT_TRUE(fields.IsNull("none"));
  EXPECT_EQ(fields.Texts("list", 2), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(fields.Integers("ids", 2, 0, 9), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(fields.Choice("mode", "a", {"a", "b"}), "a");
  fields.Finish();
  EXPECT_FALSE(fields.error()) << fields.error()->message;
}

TEST(FieldReaderTest, TheFirstErrorNamesTheFieldAndWhatIsAllowed) {
  const auto error = [](const char* text, auto read) {
    const json body = json::parse(text);
    FieldReader fields(body, "rewire.");
    read(fields);
    fields.Finish();
    EXPECT_TRUE(fields.error()) << text;
    return fields.error().value_or(ApiError{});
  };
  const auto integer = [](FieldReader& f) { f.Integer("steps", 1, 0, 50); };
  EXPECT_EQ(error(R"({"steps": 51})", integer).message, "rewire.steps: 51 is outside of 0..50");
  EXPECT_EQ(error(R"({"steps": 51})", integer).param, "rewire.steps");
  EXPECT_EQ(error(R"({"steps": 18446744073709551615})", integer).code, ApiCode::kInvalidValue);
  EXPECT_EQ(error(R"({"steps": 1.5})", integer).message, "rewire.steps: must be an integer");
  EXPECT_EQ(error(R"({"steps": "1"})", integer).message, "rewire.steps: must be an integer");
  EXPECT_EQ(error(R"({"step": 1})", integer).message, "rewire.step: unknown field (did you mean steps?)");
  EXPECT_EQ(error(R"({"lr": true})", [](FieldReader& f) { f.Real("lr", 1, 0, 1); }).message,
            "rewire.lr: must be a number");
  EXPECT_EQ(error(R"({"kv": "drop"})",
                  [](FieldReader& f) {
                    f.Choice("kv", "keep", {"keep", "recompute"});
                  })
                .message,
            "rewire.kv: 'drop' is none of keep, recompute");
  EXPECT_EQ(error("{}", [](FieldReader& f) { f.RequiredText("text"); }).message, "rewire.text: missing");
  EXPECT_EQ(error(R"({"ids": [1, -1]})", [](FieldReader& f) { f.Integers("ids", 4, 0, 9); }).message,
            "rewire.ids: holds something that is no integer in 0..9");
  EXPECT_EQ(error("[]", integer).message, "rewire: must be a JSON object");
}

}  // namespace
}  // namespace pointsman
