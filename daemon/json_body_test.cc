#include "daemon/json_body.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace pointsman {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::string_view kJsonType = "application/json";

std::string ParseMessage(std::string_view body, ApiCode code, std::string_view content_type = kJsonType,
                         const JsonLimits& limits = kBodyLimits) {
  const auto parsed = ParseJsonBody(body, content_type, limits);
  if (parsed.index() == 0) return "parsed";
  EXPECT_EQ(RowOf(std::get<ApiError>(parsed).code).name, RowOf(code).name);
  return std::get<ApiError>(parsed).message;
}

std::string MessageOf(const FieldReader& reader) { return reader.error() ? reader.error()->message : "no error"; }

TEST(ParseJsonBody, TakesJsonOfTheRightType) {
  for (const std::string_view type :
       {"application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=\"UTF-8\"",
        " application/json ; version=1; charset=utf-8"}) {
    const auto parsed = ParseJsonBody(R"({"n":[1,2.5]})", type);
    ASSERT_EQ(parsed.index(), 0u) << type;
    EXPECT_EQ(std::get<json>(parsed), json({{"n", {1, 2.5}}}));
  }
}

TEST(ParseJsonBody, RefusesOtherTypes) {
  EXPECT_EQ(ParseMessage("{}", ApiCode::kUnsupportedMedia, ""),
            "Content-Type is missing; send Content-Type: application/json");
  EXPECT_EQ(ParseMessage("{}", ApiCode::kUnsupportedMedia, "application/x-www-form-urlencoded"),
            "Content-Type 'application/x-www-form-urlencoded' is not taken here; send Content-Type: application/json");
  for (const std::string_view type : {"application/json; charset=latin1", "application/jsonx", "text/plain", ";",
                                      "application/json, text/plain", "application/json;charset="}) {
    EXPECT_NE(ParseMessage("{}", ApiCode::kUnsupportedMedia, type), "parsed") << type;
  }
}

TEST(ParseJsonBody, SaysWhatIsWrongWithTheBody) {
  EXPECT_EQ(ParseMessage("", ApiCode::kInvalidRequest), "the body is empty; send a JSON object");
  EXPECT_EQ(ParseMessage("{\"a\":}", ApiCode::kInvalidRequest),
            "the body: not valid JSON at byte 6: unexpected '}'; expected '[', '{', or a literal");
  EXPECT_EQ(ParseMessage(R"({"a":1,"a":1})", ApiCode::kInvalidRequest), "the body: key 'a' appears twice");
  EXPECT_EQ(ParseMessage("[1e400]", ApiCode::kInvalidRequest), "the body: number out of range at byte 6");
  EXPECT_EQ(ParseMessage("[\"\xc3(\"]", ApiCode::kInvalidRequest),
            "the body: not valid JSON at byte 4: invalid string: ill-formed UTF-8 byte");
  EXPECT_EQ(ParseMessage(std::string(40, '['), ApiCode::kPayloadTooLarge), "the body: nested deeper than 32 levels");
  EXPECT_EQ(ParseMessage("[1,2,3]", ApiCode::kPayloadTooLarge, kJsonType, {.depth = 2, .values = 3}),
            "the body: more than 3 values");
}

TEST(FieldReader, ReadsEveryKindOfField) {
  const json body = json::parse(R"({"text":"a","whole":5,"float":64.0,"real":0.5,"one":1,"flag":true,"kind":"auto",
                                    "texts":["x","y"],"numbers":[1,-2],"vector":[0.5,1,-3e38],"deep":{"n":1}})");
  FieldReader reader(body);
  EXPECT_EQ(reader.Text("text", "z"), "a");
  EXPECT_EQ(reader.RequiredText("text"), "a");
  EXPECT_EQ(reader.Integer("whole", 1, 0, 5), 5);
  EXPECT_EQ(reader.Integer("float", 1, 0, 100), 64);
  EXPECT_EQ(reader.Real("real", 1, 0.5, 2), 0.5);
  EXPECT_EQ(reader.Real("one", 0, 0, 2), 1.0);
  EXPECT_TRUE(reader.Flag("flag", false));
  EXPECT_EQ(reader.Choice("kind", "entries", {"auto", "entries"}), "auto");
  EXPECT_THAT(reader.Texts("texts", 2), ElementsAre("x", "y"));
  EXPECT_THAT(reader.Integers("numbers", 2, -2, 1), ElementsAre(1, -2));
  EXPECT_THAT(reader.Floats("vector", 3), ElementsAre(0.5f, 1.0f, -3e38f));
  ASSERT_NE(reader.Member("deep"), nullptr);
  FieldReader deep(*reader.Member("deep"), "deep.");
  EXPECT_EQ(deep.Integer("n", 0, 0, 9), 1);
  deep.Finish();
  reader.Absorb(deep);
  reader.Finish();
  EXPECT_EQ(MessageOf(reader), "no error");
}

TEST(FieldReader, AbsentAndNullGiveTheFallback) {
  const json body = {{"memory", nullptr}, {"n", nullptr}};
  FieldReader reader(body);
  EXPECT_TRUE(reader.IsNull("memory"));
  EXPECT_FALSE(reader.Has("memory"));
  EXPECT_FALSE(reader.IsNull("absent"));
  EXPECT_FALSE(reader.Has("absent"));
  EXPECT_EQ(reader.Text("memory", "default"), "default");
  EXPECT_EQ(reader.Integer("n", 3, 0, 9), 3);
  EXPECT_EQ(reader.Real("t", 0.25, 0, 1), 0.25);
  EXPECT_TRUE(reader.Flag("flag", true));
  EXPECT_EQ(reader.Choice("kind", "auto", {"auto"}), "auto");
  EXPECT_THAT(reader.Texts("stop", 4), IsEmpty());
  EXPECT_THAT(reader.Integers("tokens", 4, 0, 1), IsEmpty());
  EXPECT_THAT(reader.Floats("vector", 4), IsEmpty());
  EXPECT_EQ(reader.Member("memory"), nullptr);
  reader.Finish();
  EXPECT_EQ(MessageOf(reader), "no error");
}

// What one getter says about one value.
template <typename Getter>
std::string Refusal(const json& value, Getter getter) {
  const json body = {{"f", value}};
  FieldReader reader(body);
  getter(reader);
  if (!reader.error()) return "no error";
  EXPECT_EQ(reader.error()->code, ApiCode::kInvalidValue);
  EXPECT_TRUE(reader.error()->param.starts_with("f")) << reader.error()->param;
  return reader.error()->message;
}

TEST(FieldReader, RefusalsNameFieldValueAndBounds) {
  const auto text = [](FieldReader& reader) { EXPECT_EQ(reader.Text("f", "fallback", 4), "fallback"); };
  EXPECT_EQ(Refusal(3, text), "f: must be a string, not a number");
  EXPECT_EQ(Refusal(json::array(), text), "f: must be a string, not an array");
  EXPECT_EQ(Refusal("12345", text), "f: has 5 bytes, more than 4");

  const auto integer = [](FieldReader& reader) { EXPECT_EQ(reader.Integer("f", 7, -3, 9), 7); };
  EXPECT_EQ(Refusal(10, integer), "f: 10 is not between -3 and 9");
  EXPECT_EQ(Refusal(-4, integer), "f: -4 is not between -3 and 9");
  EXPECT_EQ(Refusal(UINT64_MAX, integer), "f: 18446744073709551615 is not between -3 and 9");
  EXPECT_EQ(Refusal(1.5, integer), "f: must be a whole number, not 1.5");
  EXPECT_EQ(Refusal(1e300, integer), "f: must be a whole number, not 1e+300");
  EXPECT_EQ(Refusal("1", integer), "f: must be a whole number, not a string");

  const auto real = [](FieldReader& reader) { EXPECT_EQ(reader.Real("f", 1, 0, 2), 1); };
  EXPECT_EQ(Refusal(9, real), "f: 9 is not between 0 and 2");
  EXPECT_EQ(Refusal(-0.5, real), "f: -0.5 is not between 0 and 2");
  EXPECT_EQ(Refusal(true, real), "f: must be a number, not true or false");

  EXPECT_EQ(Refusal(1, [](FieldReader& reader) { EXPECT_FALSE(reader.Flag("f", false)); }),
            "f: must be true or false, not a number");
  const auto choice = [](FieldReader& reader) { EXPECT_EQ(reader.Choice("f", "a", {"a", "b"}), "a"); };
  EXPECT_EQ(Refusal("c\n", choice), "f: 'c?' is not one of a, b");
  EXPECT_EQ(Refusal(json::object(), choice), "f: must be a string, not an object");
}

TEST(FieldReader, RefusalsOfListsNameTheElement) {
  const auto texts = [](FieldReader& reader) { EXPECT_THAT(reader.Texts("f", 2, 3), IsEmpty()); };
  EXPECT_EQ(Refusal("x", texts), "f: must be an array, not a string");
  EXPECT_EQ(Refusal({"a", "b", "c"}, texts), "f: has 3 elements, more than 2");
  EXPECT_EQ(Refusal({"a", 1}, texts), "f[1]: must be a string, not a number");
  EXPECT_EQ(Refusal({"abcd"}, texts), "f[0]: has 4 bytes, more than 3");
  const auto integers = [](FieldReader& reader) { EXPECT_THAT(reader.Integers("f", 3, 0, 9), IsEmpty()); };
  EXPECT_EQ(Refusal({1, 2, 10}, integers), "f[2]: 10 is not between 0 and 9");
  const auto floats = [](FieldReader& reader) { EXPECT_THAT(reader.Floats("f", 3), IsEmpty()); };
  EXPECT_EQ(Refusal({1, nullptr}, floats), "f[1]: must be a number, not null");
  EXPECT_EQ(Refusal({1e39}, floats).substr(0, 23), "f[0]: 1e+39 is not betw");
}

TEST(FieldReader, RequiredFieldsAreRequired) {
  const json body = {{"b", nullptr}};
  FieldReader reader(body);
  EXPECT_EQ(reader.RequiredText("a"), "");
  EXPECT_EQ(MessageOf(reader), "a: is required");
  EXPECT_EQ(reader.error()->param, "a");
  FieldReader other(body);
  EXPECT_FALSE(other.Require("b"));
  EXPECT_EQ(MessageOf(other), "b: is required");
}

TEST(FieldReader, TheFirstErrorStays) {
  const json body = {{"a", 1}, {"b", 2}};
  FieldReader reader(body);
  reader.Text("a", "");
  reader.Text("b", "");
  reader.Fail("c", "later");
  reader.Finish();
  EXPECT_EQ(MessageOf(reader), "a: must be a string, not a number");
}

TEST(FieldReader, UnknownFieldsAreReportedWithTheNearestName) {
  const json body = {{"temprature", 1}, {"prompt", "x"}};
  const auto read = [&](bool ignore_unknown) {
    FieldReader reader(body);
    reader.Text("prompt", "");
    reader.Real("temperature", 1, 0, 2);
    reader.Finish(ignore_unknown);
    return reader.error();
  };
  ASSERT_TRUE(read(false));
  EXPECT_EQ(read(false)->message, "unknown field 'temprature' (did you mean 'temperature'?)");
  EXPECT_EQ(read(false)->param, "temprature");
  EXPECT_FALSE(read(true));

  const json odd = {{std::string(300, 'x') + "\n", 1}};
  FieldReader reader(odd, "rewire.");
  reader.Finish();
  EXPECT_EQ(MessageOf(reader), "unknown field 'rewire." + std::string(80, 'x') + "...'");
}

TEST(FieldReader, PathsAreInMessagesAndParam) {
  const json body = {{"rewire", {{"steps", -1}, {"lrr", 1}}}};
  FieldReader reader(body);
  FieldReader rewire(*reader.Member("rewire"), "rewire.");
  rewire.Integer("steps", 1, 0, 1000);
  reader.Absorb(rewire);
  EXPECT_EQ(MessageOf(reader), "rewire.steps: -1 is not between 0 and 1000");
  EXPECT_EQ(reader.error()->param, "rewire.steps");

  FieldReader names(*reader.Member("rewire"), "rewire.");
  names.Integer("steps", 1, -1, 1000);
  names.Real("lr", 1, 0, 2);
  names.Finish();
  EXPECT_EQ(MessageOf(names), "unknown field 'rewire.lrr' (did you mean 'rewire.lr'?)");
}

TEST(FieldReader, WhatIsNoObjectIsAnErrorFromTheStart) {
  const json list = json::array();
  FieldReader body(list);
  EXPECT_EQ(body.Integer("n", 3, 0, 9), 3);
  body.Finish();
  EXPECT_EQ(MessageOf(body), "the body must be a JSON object, not an array");
  EXPECT_EQ(body.error()->param, "");
  FieldReader member(list, "rewire.");
  EXPECT_EQ(MessageOf(member), "rewire: must be a JSON object, not an array");
  EXPECT_EQ(member.error()->param, "rewire");
}

TEST(FieldReader, FailTakesACode) {
  const json body = {{"tools", json::array()}};
  FieldReader reader(body);
  reader.Fail("tools", "is not supported", ApiCode::kUnprocessable);
  EXPECT_EQ(MessageOf(reader), "tools: is not supported");
  EXPECT_EQ(RowOf(reader.error()->code).status, 422);
}

}  // namespace
}  // namespace pointsman
