#include "models/json_text.h"

#include <gtest/gtest.h>

#include "models/testing/safetensors_file.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

TEST(ParseJson, NamesTheFileAndTheByteOfASyntaxError) {
  const auto parsed = ParseJson(R"({"a": 1,})", "some.json");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(parsed.error().message,
            "some.json: not valid JSON at byte 9: unexpected '}'; expected string literal; download the file again");
}

TEST(ParseJson, RefusesWhatADamagedOrHostileFileContains) {
  EXPECT_FALSE(ParseJson("", "f").ok());
  EXPECT_FALSE(ParseJson("{} x", "f").ok());
  EXPECT_FALSE(ParseJson("{\"a\": 1e999}", "f").ok());
  EXPECT_FALSE(ParseJson("\"\xff\"", "f").ok());
  EXPECT_EQ(ParseJson(R"({"a": {"b": 1, "b": 2}})", "f").error().message,
            "f: key 'b' appears twice; download the file again");
  EXPECT_TRUE(ParseJson(R"({"a": {"b": 1}, "b": {"b": 2}})", "f").ok());
}

TEST(ParseJson, BoundsTheDepth) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(64), "f").ok());
  EXPECT_EQ(ParseJson(nested(65), "f").error().message, "f: nested deeper than 64 levels; download the file again");
  const std::string deep(10'000'000, '[');  // NOLINT(bugprone-string-constructor): meant to be long
  EXPECT_FALSE(ParseJson(deep, "f").ok());
  EXPECT_TRUE(ParseJson("[\"" + std::string(1000, '[') + "\\\"[\"]", "f").ok()) << "brackets in strings do not count";
}

TEST(ReadJsonObject, BoundsTheSizeAndWantsAnObject) {
  testing::TemporaryDirectory directory;
  const auto path = directory.path() / "a.json";
  EXPECT_EQ(ReadJsonObject(path, 100).error().code, ErrorCode::kNotFound);
  testing::WriteBytes(path, "[1]");
  EXPECT_EQ(ReadJsonObject(path, 100).error().code, ErrorCode::kCorrupt);
  testing::WriteBytes(path, "{\"a\": 1}");
  EXPECT_TRUE(ReadJsonObject(path, 8).ok());
  EXPECT_NE(ReadJsonObject(path, 7).error().message.find("8 bytes, more than the 7"), std::string::npos);
  EXPECT_FALSE(ReadJsonObject(directory.path(), 100).ok()) << "a directory";
}

TEST(JsonFields, ChecksTypesAndRanges) {
  const nlohmann::json object = {{"n", 5},      {"negative", -1}, {"real", 1.5}, {"huge", UINT64_MAX},
                                 {"text", "x"}, {"null", nullptr}};
  const JsonFields fields(object, "f");
  EXPECT_EQ(fields.Integer("n", 0, 5).value(), 5);
  EXPECT_EQ(fields.Integer("n", 6, 9).error().message, "f: field 'n' is 5, outside 6..9");
  EXPECT_EQ(fields.Integer("huge", 0, INT64_MAX).error().message.find("f: field 'huge' is 18446744073709551615"), 0u);
  EXPECT_FALSE(fields.Integer("negative", 0, 5).ok());
  EXPECT_EQ(fields.Integer("real", 0, 5).error().message, "f: field 'real' is not an integer");
  EXPECT_EQ(fields.Integer("absent", 0, 5).error().message, "f: field 'absent' is missing");
  EXPECT_EQ(fields.Integer("null", 0, 5, 3).value(), 3) << "null is absent";
  EXPECT_EQ(fields.Number("n", 0, 9).value(), 5.0);
  EXPECT_FALSE(fields.Number("text", 0, 9).ok());
  EXPECT_FALSE(fields.Boolean("n").ok());
  EXPECT_FALSE(fields.Text("n").ok());
}

TEST(OneLine, CutsAndCleansWhatMessagesQuote) {
  EXPECT_EQ(OneLine("a\nb\x1b[31m"), "a?b?[31m");
  EXPECT_EQ(OneLine(std::string(200, 'x')).size(), 83u);
}

TEST(FlattenSequence, KeepsTheOrderOfNestedSteps) {
  const auto spec = nlohmann::json::parse(R"({"type": "Sequence", "steps": [{"type": "A"},
      {"type": "Sequence", "steps": [{"type": "B"}, {"type": "C"}]}, {"type": "D"}]})");
  const auto steps = FlattenSequence(spec, "steps", "f");
  ASSERT_TRUE(steps.ok());
  std::string order;
  for (const auto* step : steps.value()) order += step->at("type").get<std::string>();
  EXPECT_EQ(order, "ABCD");
  EXPECT_FALSE(FlattenSequence(nlohmann::json::parse(R"({"type": "Sequence"})"), "steps", "f").ok());
  EXPECT_FALSE(FlattenSequence(nlohmann::json::parse(R"({"type": 3})"), "steps", "f").ok());
}

}  // namespace
}  // namespace pointsman
