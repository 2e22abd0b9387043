#include "models/tokenizer/pattern.h"

#include <gtest/gtest.h>

#include <string>

#include "models/tokenizer/pattern_dialect.h"

namespace pointsman {
namespace {

// Matches joined by '|', or the error.
std::string Matches(std::string_view regex, std::string_view text) {
  const auto pattern = Pattern::Compile(regex);
  if (!pattern.ok()) return "error: " + pattern.error().message;
  std::vector<Match> matches;
  pattern.value().FindAll(text, matches);
  std::string out;
  for (const Match& match : matches) {
    out += (out.empty() ? "" : "|") + std::string(text.substr(match.begin, match.end - match.begin));
  }
  return out;
}

TEST(Pattern, FindsMatchesFromLeftToRight) {
  EXPECT_EQ(Matches(R"(\p{N}{1,3}| ?\p{L}+)", "abc 12345"), "abc|123|45");
  EXPECT_EQ(Matches(R"(\s+(?!\S)|\s+)", "a   b \n"), "  | | \n");
  EXPECT_EQ(Matches(R"((?i:'s|'LL))", "it's I'll 'S"), "'s|'ll|'S");
  EXPECT_EQ(Matches(R"(a++b|[^\r\n]+?x)", "aab__x"), "aab|__x");
  EXPECT_EQ(Matches(R"((a)(b))", "abab"), "ab|ab") << "groups do not capture";
}

TEST(Pattern, SeesUnicodeAsOnigurumaDoes) {
  EXPECT_EQ(Matches(R"(\s)", "\u180e\u00a0\u200b\u0085"), "\u00a0|\u0085");
  EXPECT_EQ(Matches(R"(\S+)", "\u180e\u00a0a"), "\u180e|a");
  EXPECT_EQ(Matches(R"(\p{L}+)", "a\U0002ebf0\u1c89 1"), "a\U0002ebf0\u1c89") << "letters of Unicode 15 and 16";
  EXPECT_EQ(Matches(R"(\P{L}+)", "a\u1c89 1b"), " 1");
  EXPECT_EQ(Matches(R"(\p{^L}+)", "a 1b"), " 1");
  EXPECT_EQ(Matches(R"([^\s\p{L}]+)", "a\u1c89+-"), "+-");
  EXPECT_EQ(Matches(R"(\d+)", "1\u0663\U00011f50\u00bd"), "1\u0663\U00011f50");
  EXPECT_EQ(Matches(R"(\u4e00|[\x{41}-\x43])", "\u4e00BD"), "\u4e00|B");
}

TEST(Pattern, RefusesWhatPcre2WouldReadDifferently) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(^a)", "the anchor '^'"},
      {R"(a$)", "the anchor '$'"},
      {R"(\w+)", "the escape '\\w'"},
      {R"(\bx)", "the escape '\\b'"},
      {R"((a)\1)", "the escape '\\1'"},
      {R"(\h)", "the escape '\\h'"},
      {R"([a[bc]])", "a nested character class"},
      {R"([a&&b])", "'&&' in a character class"},
      {R"([\S])", "a negated property in a character class"},
      {R"(\p{Han})", "the property 'Han'"},
      {R"(\pL)", "'\\p' without braces"},
      {R"(\p{L}{1,2}+)", "'+' or '?' after an interval"},
      {R"(a{,2})", "'{' outside an interval"},
      {R"((?<name>a))", "the group '(?<n'"},
      {R"((*MARK)a)", "the group '(*MA'"},
      {R"([abc)", "an unterminated character class"},
      {R"([]a])", "']' at the start of a character class"},
      {R"(\x{110000000})", "an incomplete hexadecimal escape"},
      {"a\\", "a trailing backslash"},
  };
  for (const auto& [regex, construct] : cases) {
    EXPECT_EQ(Matches(regex, ""), std::string("error: pattern uses ") + construct + ", which is not supported")
        << regex;
  }
}

TEST(Pattern, RefusesWhatDoesNotCompileOrMatchesNothing) {
  EXPECT_EQ(Matches("(a", ""), "error: pattern does not compile: missing closing parenthesis");
  EXPECT_EQ(Matches("a*", ""), "error: pattern can match the empty string");
  EXPECT_EQ(Matches("", ""), "error: pattern can match the empty string");
  EXPECT_EQ(Matches(std::string(1000, '(') + std::string(1000, ')'), "").find("error: "), 0u);
  EXPECT_EQ(Matches(std::string(70'000, 'a'), ""), "error: pattern is longer than 64 KiB");
}

TEST(Pattern, StopsAtTheBacktrackingLimit) {
  const std::string text = "b" + std::string(60, 'a') + "!";
  EXPECT_EQ(Matches(R"(b|(a+a+)+c)", text), "b") << "the rest counts as not matched";
}

TEST(Pattern, TakesLongRunsWithoutDeepRecursion) {
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(Matches(R"(\s+(?!\S)|\s+)", spaces + "x").size(), spaces.size() + 1) << "all but the last, '|', the last";
  EXPECT_EQ(Matches(R"((?:a|b)+)", std::string(1 << 16, 'a')).size(), size_t{1} << 16);
}

TEST(Pattern, MatchesLiteralsWithoutMeaning) {
  const auto pattern = Pattern::Literal(".*[");
  ASSERT_TRUE(pattern.ok());
  std::vector<Match> matches;
  pattern.value().FindAll("a.*[b.*", matches);
  ASSERT_EQ(matches.size(), 1u);
  EXPECT_EQ(matches[0].begin, 1u);
  EXPECT_FALSE(Pattern::Literal("").ok());
}

TEST(TranslatePattern, LeavesPlainTextAlone) {
  EXPECT_EQ(TranslatePattern("'s| ?a+b{2,}|#").value(), "'s| ?a+b{2,}|#");
  EXPECT_EQ(TranslatePattern("a}]").value(), "a\\}\\]");
  EXPECT_EQ(TranslatePattern(".").value(), "[^\\n]");
}

}  // namespace
}  // namespace pointsman
