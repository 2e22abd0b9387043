#include "memory/nearest_word.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(NearestWord, FindsTheOneThatWasMeant) {
  const std::vector<std::string> words = {"temperature", "top_p", "stop", "strength"};
  EXPECT_EQ(NearestWord("temprature", words), "temperature");
  EXPECT_EQ(NearestWord("topp", words), "top_p");
  EXPECT_EQ(NearestWord("strenght", words), "strength");
  EXPECT_EQ(NearestWord("stop", words), "stop");
}

TEST(NearestWord, SaysNothingWhereNothingIsNear) {
  EXPECT_EQ(NearestWord("banana", {"temperature", "strength"}), "");
  EXPECT_EQ(NearestWord("x", {}), "");
  EXPECT_EQ(NearestWord("abcd", {"wxyz"}), "");
}

TEST(NearestWord, LeavesWordsThatNobodyTyped) {
  EXPECT_EQ(NearestWord(std::string(64, 'a'), {std::string(63, 'a')}), std::string(63, 'a'));
  EXPECT_EQ(NearestWord(std::string(65, 'a'), {std::string(64, 'a')}), "");
}

}  // namespace
}  // namespace pointsman
