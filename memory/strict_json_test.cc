#include "memory/strict_json.h"

#include <gtest/gtest.h>

#include <string>

namespace pointsman {
namespace {

using nlohmann::json;

json Parsed(std::string_view text, const JsonLimits& limits = {}) {
  auto parsed = ParseStrictJson(text, limits);
  EXPECT_EQ(parsed.index(), 0u) << text;
  return parsed.index() == 0 ? std::get<0>(parsed) : json();
}

std::string Problem(std::string_view text, JsonFault fault, const JsonLimits& limits = {}) {
  const auto parsed = ParseStrictJson(text, limits);
  if (parsed.index() == 0) return "parsed";
  EXPECT_EQ(std::get<1>(parsed).fault, fault) << std::get<1>(parsed).what;
  return std::get<1>(parsed).what;
}

std::string Nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(StrictJson, BuildsWhatTheLibraryWouldBuild) {
  for (const std::string text :
       {R"({"a":{"b":[1,-2,2.5,{"c":null},[]],"d":true},"e":"\u00e9\"x","f":{},"g":18446744073709551615})",
        R"([[1],[2]])", R"("text")", "7", "null", " [ ] "}) {
    EXPECT_EQ(Parsed(text), json::parse(text));
  }
  EXPECT_TRUE(Parsed("18446744073709551615").is_number_unsigned());
}

TEST(StrictJson, SyntaxErrorsSayWhereAndWhat) {
  EXPECT_EQ(Problem(R"({"a": 1,})", JsonFault::kSyntax),
            "not valid JSON at byte 9: unexpected '}'; expected string literal");
  EXPECT_EQ(Problem("", JsonFault::kSyntax),
            "not valid JSON at byte 1: unexpected end of input; expected '[', '{', or a literal");
  EXPECT_EQ(Problem("{} x", JsonFault::kSyntax), "not valid JSON at byte 4: invalid literal");
  EXPECT_EQ(Problem("[tru]", JsonFault::kSyntax), "not valid JSON at byte 5: invalid literal");
  EXPECT_EQ(Problem("\"\xff\"", JsonFault::kSyntax), "not valid JSON at byte 2: invalid string: ill-formed UTF-8 byte");
  EXPECT_EQ(Problem(R"("\ud800")", JsonFault::kSyntax),
            "not valid JSON at byte 8: invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF");
  EXPECT_NE(Problem("[NaN]", JsonFault::kSyntax), "parsed");
  EXPECT_NE(Problem("// no\n1", JsonFault::kSyntax), "parsed");
  EXPECT_NE(Problem("'a'", JsonFault::kSyntax), "parsed");
}

TEST(StrictJson, ALongBrokenTokenIsNotQuoted) {
  EXPECT_LT(Problem("\"" + std::string(100'000, 'a'), JsonFault::kSyntax).size(), 200u);
}

TEST(StrictJson, NumbersMustBeFinite) {
  EXPECT_EQ(Problem("[1, 1e999]", JsonFault::kNumber), "number out of range at byte 9");
  EXPECT_EQ(Parsed("1e308"), 1e308);
  EXPECT_EQ(Parsed("-0.0").get<double>(), 0.0);
}

TEST(StrictJson, AKeyMayComeOnceInEachObject) {
  EXPECT_EQ(Problem(R"({"a":{"b":1,"b":2}})", JsonFault::kDuplicateKey), "key 'b' appears twice");
  EXPECT_EQ(Problem(R"({"a":1,"\u0061":2})", JsonFault::kDuplicateKey), "key 'a' appears twice");
  EXPECT_EQ(Problem("{\"a\\n\":1,\"a\\n\":2}", JsonFault::kDuplicateKey), "key 'a?' appears twice");
  Parsed(R"({"a":{"b":1},"b":[{"b":2},{"b":3}]})");
}

TEST(StrictJson, DepthIsBoundedBeforeAnythingDeepIsBuilt) {
  Parsed(Nested(32));
  EXPECT_EQ(Problem(Nested(33), JsonFault::kDepth), "nested deeper than 32 levels");
  EXPECT_EQ(Problem(std::string(10'000'000, '['), JsonFault::kDepth), "nested deeper than 32 levels");
  EXPECT_EQ(Problem(R"({"a":{"a":1}})", JsonFault::kDepth, {.depth = 1}), "nested deeper than 1 levels");
  Parsed("[\"" + std::string(1000, '[') + "\"]", {.depth = 1});
}

TEST(StrictJson, ValuesAreCountedWithTheirContainers) {
  Parsed(R"({"a":[1,"b",null]})", {.values = 5});
  EXPECT_EQ(Problem(R"({"a":[1,"b",null]})", JsonFault::kValues, {.values = 4}), "more than 4 values");
  EXPECT_EQ(Problem("[[],[],[]]", JsonFault::kValues, {.values = 3}), "more than 3 values");
}

TEST(StrictJson, EveryPrefixAndEveryDamagedByteEndsInAnAnswer) {
  const std::string text = R"({"model":"m","prompt":["a\u00e9","b"],"n":2,"temperature":0.5e0,"rewire":{"on":true}})";
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_EQ(ParseStrictJson(text.substr(0, size)).index(), 1u) << size;
  }
  for (size_t at = 0; at < text.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(value);
      const auto parsed = ParseStrictJson(damaged);
      if (parsed.index() == 0) {
        EXPECT_EQ(std::get<0>(parsed), json::parse(damaged));
      } else {
        EXPECT_FALSE(std::get<1>(parsed).what.empty());
      }
    }
  }
}

}  // namespace
}  // namespace pointsman
