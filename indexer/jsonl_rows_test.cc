#include "indexer/jsonl_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pointsman {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

RowText Parse(std::string_view row, const std::vector<std::string>& fields = {}) {
  auto result = ParseRow(row, fields);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return result.ok() ? result.value() : RowText{};
}

std::string Learned(const RowText& row) {
  std::string text;
  for (const auto& [begin, end] : row.learn_spans) text += "[" + row.text.substr(begin, end - begin) + "]";
  return text;
}

TEST(ParseRowTest, GivenFieldsAreJoinedInTheirOrder) {
  const RowText row = Parse(R"({"answer": "42", "question": "what?", "text": "other"})", {"question", "answer"});
  EXPECT_EQ(row.text, "what?\n42");
  EXPECT_THAT(row.learn_spans, IsEmpty());
}

TEST(ParseRowTest, WithoutFieldsAllStringsInTheRowsOrder) {
  EXPECT_EQ(Parse(R"({"z": "first", "n": 3, "a": "second", "list": ["no"]})").text, "first\nsecond");
  EXPECT_EQ(Parse(R"({"text": "caf\u00e9", "z": "no"})").text, "caf\xc3\xa9");
}

TEST(ParseRowTest, OnlyTheCompletionIsLearned) {
  const RowText row = Parse(R"({"prompt": "2+2=", "completion": "4"})");
  EXPECT_EQ(row.text, "2+2=\n4");
  EXPECT_EQ(Learned(row), "[4]");
  EXPECT_EQ(Parse(R"({"prompt": "2+2=", "completion": " 4"})").text, "2+2= 4");
  EXPECT_EQ(Parse(R"({"prompt": "say: ", "completion": "4"})").text, "say: 4");
}

TEST(ParseRowTest, OnlyTheAssistantIsLearned) {
  const RowText row = Parse(
      R"({"messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"},
          {"role": "assistant", "content": "hello"}, {"role": "user", "content": "more"},
          {"role": "assistant", "content": [{"type": "text", "text": "wor"}, {"type": "text", "text": "ld"}]}]})");
  EXPECT_EQ(row.text, "be short\nhi\nhello\nmore\nworld");
  EXPECT_EQ(Learned(row), "[hello][world]");
}

TEST(ParseRowTest, RefusesWhatWouldSilentlyBeLearnedWhole) {
  EXPECT_EQ(ParseRow(R"({"messages": [{"role": "user", "content": "hi"}]})", {}).error().message,
            "no assistant message to learn from");
  EXPECT_FALSE(ParseRow(R"({"prompt": "a", "completion": ""})", {}).ok());
}

TEST(ParseRowTest, RefusesWhatIsNoRow) {
  EXPECT_EQ(ParseRow("[1, 2]", {}).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(ParseRow("{\"text\": ", {}).error().message, "not a JSON object");
  EXPECT_EQ(ParseRow(R"({"a": "x"})", {"b"}).error().message, "no string field \"b\"");
  EXPECT_EQ(ParseRow(R"({"b": 3})", {"b"}).error().message, "no string field \"b\"");
  EXPECT_EQ(ParseRow(R"({"n": 1})", {}).error().message, "no string field");
  EXPECT_FALSE(ParseRow(std::string(100000, '['), {}).ok());
}

}  // namespace
}  // namespace pointsman
