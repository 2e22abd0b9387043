#include "models/tokenizer/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace pointsman {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

std::string Replacements(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += kReplacement;
  return out;
}

TEST(ReplaceInvalidUtf8, KeepsValidText) {
  using std::string_literals::operator""s;
  const std::string text =
      "a\0\x7f \xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xef\xbf\xbf \xf0\x90\x80\x80 \xf4\x8f\xbf\xbf"s;
  ASSERT_EQ(text.size(), 31u);
  EXPECT_EQ(ReplaceInvalidUtf8(text), text);
}

// What Python's bytes.decode("utf-8", "replace") gives.
TEST(ReplaceInvalidUtf8, ReplacesEachMaximalSubpartOnce) {
  EXPECT_EQ(ReplaceInvalidUtf8("a\x80z"), "a" + Replacements(1) + "z");
  EXPECT_EQ(ReplaceInvalidUtf8("\xe2\x82"), Replacements(1)) << "truncated";
  EXPECT_EQ(ReplaceInvalidUtf8("\xf0\x9f\x98x"), Replacements(1) + "x");
  EXPECT_EQ(ReplaceInvalidUtf8("\xc0\xaf"), Replacements(2)) << "overlong";
  EXPECT_EQ(ReplaceInvalidUtf8("\xe0\x80\xaf"), Replacements(3)) << "overlong";
  EXPECT_EQ(ReplaceInvalidUtf8("\xed\xa0\x80"), Replacements(3)) << "surrogate";
  EXPECT_EQ(ReplaceInvalidUtf8("\xf4\x90\x80\x80"), Replacements(4)) << "above 10FFFF";
  EXPECT_EQ(ReplaceInvalidUtf8("\xff\xfe"), Replacements(2));
}

TEST(Utf8, GoesForwardsAndBackwards) {
  for (uint32_t code_point : {0x41u, 0x7fu, 0x80u, 0x7ffu, 0x800u, 0xffffu, 0x10000u, 0x10ffffu}) {
    std::string text = "x";
    AppendUtf8(code_point, text);
    const DecodedCodePoint forwards = DecodeUtf8(text, 1), backwards = DecodeUtf8Before(text, text.size());
    EXPECT_EQ(forwards.value, code_point);
    EXPECT_EQ(forwards.bytes, text.size() - 1);
    EXPECT_EQ(backwards.value, code_point);
    EXPECT_EQ(backwards.bytes, text.size() - 1);
  }
}

TEST(Properties, FollowTheLibrarysUnicodeVersion) {
  for (uint32_t space : {0x20u, 0x9u, 0x85u, 0xa0u, 0x2003u, 0x3000u}) EXPECT_TRUE(IsWhiteSpace(space)) << space;
  for (uint32_t other : {0x180eu, 0x200bu, 0xfeffu, 0x41u, 0x0u}) EXPECT_FALSE(IsWhiteSpace(other)) << other;
  for (uint32_t digit : {0x30u, 0x663u, 0xbdu, 0x2167u, 0x11f50u, 0x11de0u}) EXPECT_TRUE(IsNumeric(digit)) << digit;
  EXPECT_FALSE(IsNumeric(0x4e00)) << "a Han number is a letter";
  for (uint32_t word : {0x61u, 0x5fu, 0x301u, 0x200du, 0x24b6u, 0x1c89u}) EXPECT_TRUE(IsWordCharacter(word)) << word;
  for (uint32_t other : {0x2du, 0xb2u, 0x20u, 0x1f600u}) EXPECT_FALSE(IsWordCharacter(other)) << other;
  EXPECT_TRUE(IsInertInNormalization(0x32ff)) << "the square era name Reiwa came with Unicode 12.1";
  EXPECT_FALSE(IsInertInNormalization(0x301));
}

}  // namespace
}  // namespace pointsman
