#include "memory/one_line.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(OneLine, QuotesShortAndWithoutControlCharacters) {
  EXPECT_EQ(OneLine("a\nb\x1b[1m\x7f"), "a?b?[1m?");
  EXPECT_EQ(OneLine(std::string(80, 'a')), std::string(80, 'a'));
  EXPECT_EQ(OneLine(std::string(81, 'a')), std::string(80, 'a') + "...");
  EXPECT_EQ(OneLine(std::string(79, 'a') + "\xc3\xa9 more"), std::string(79, 'a') + "...") << "no half character";
}

}  // namespace
}  // namespace pointsman
