#include "indexer/tasks/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pointsman {
namespace {

using testing::HasSubstr;

// The answer, with a '+' behind it if it is final; "none" or the error.
std::string Found(const std::string& regex, std::string_view text) {
  const auto pattern = AnswerPattern::Compile(regex);
  if (!pattern.ok()) return pattern.error().message;
  const auto found = pattern.value().Find(text);
  return found ? found->text + (found->final ? "+" : "") : "none";
}

TEST(AnswerPattern, TakesTheFirstGroupOfTheFirstMatch) {
  EXPECT_EQ(Found(kGsm8kPattern, "He has <<9*2=18>>18.\n#### 18\n"), "18+");
  EXPECT_EQ(Found(kGsm8kPattern, "#### 1,234"), "1234") << "the next token may go on with 5";
  EXPECT_EQ(Found(kGsm8kPattern, "#### -7.50\n#### 8"), "-7.5+");
  EXPECT_EQ(Found("The answer is [A-D]", "The answer is B."), "The answer is B+") << "without a group: all of it";
  EXPECT_EQ(Found("(a)|(b)", "b"), "none") << "the first group has no part in the match";
}

TEST(AnswerPattern, FindsNothingWhereThereIsNothing) {
  EXPECT_EQ(Found(kGsm8kPattern, ""), "none");
  EXPECT_EQ(Found(kGsm8kPattern, "#### unknown"), "none");
  EXPECT_EQ(Found("x*", "aaa"), "none") << "an empty match is no answer";
  EXPECT_EQ(Found("( +)", "a  b"), "none") << "white space is no answer";
}

TEST(AnswerPattern, TakesBytesThatAreNoUtf8) {
  EXPECT_EQ(Found(kGsm8kPattern, "\xff\xfe#### 42\xc3"), "42+");
  EXPECT_EQ(Found("(.)z", "\xc3z"), "none");
}

TEST(AnswerPattern, StopsAtTheBacktrackingLimit) { EXPECT_EQ(Found("(a+a+)+c", std::string(60, 'a') + "!"), "none"); }

TEST(AnswerPattern, ABadPatternNamesReasonAndPlace) {
  EXPECT_EQ(Found("#### ([0-9", ""),
            "--answer-pattern '#### ([0-9': missing terminating ] for character class at character 10");
}

TEST(NormalizeAnswer, GivesNumbersOneForm) {
  for (const char* same : {"1234.5", "1,234.50", "$1,234.5", "+01234.500", " 1234.5. ", "1234.5,"}) {
    EXPECT_EQ(NormalizeAnswer(same), "1234.5") << same;
  }
  EXPECT_EQ(NormalizeAnswer("-0.0"), "0");
  EXPECT_EQ(NormalizeAnswer("-.50"), "-0.5");
  EXPECT_EQ(NormalizeAnswer("18."), "18");
  EXPECT_EQ(NormalizeAnswer("-$5"), "-5");
  EXPECT_EQ(NormalizeAnswer("000"), "0");
  EXPECT_EQ(NormalizeAnswer("123456789012345678901234567890"), "123456789012345678901234567890") << "no double between";
}

TEST(NormalizeAnswer, LeavesOtherTextButItsSpaces) {
  EXPECT_EQ(NormalizeAnswer("  New \n York "), "New York");
  for (const char* text : {"1.2.3", "12a", "--5", ".", "$", "1/2", ",5", "1,2,3", "12,34", "1,2345", ""})
    EXPECT_EQ(NormalizeAnswer(text), text);
}

TEST(CountVotes, MostVotesFirstThenTheFirstSeen) {
  const std::vector<std::optional<std::string>> answers{"7", std::nullopt, "3", "3", "7", "9", std::nullopt};
  const std::vector<Vote> votes = CountVotes(answers);
  ASSERT_EQ(votes.size(), 3u);
  EXPECT_EQ(votes[0].answer, "7") << "7 and 3 have two each; 7 was seen first";
  EXPECT_EQ(votes[0].votes, 2u);
  EXPECT_EQ(votes[1].answer, "3");
  EXPECT_EQ(votes[2].votes, 1u);
  const std::vector<std::optional<std::string>> none(4);
  EXPECT_TRUE(CountVotes(none).empty());
}

}  // namespace
}  // namespace pointsman
