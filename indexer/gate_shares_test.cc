#include "indexer/gate_shares.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace pointsman {
namespace {

// 10,000 values from 0 to below `end`.
std::vector<double> Uniform(double end) {
  std::vector<double> values;
  for (int i = 0; i < 10'000; ++i) values.push_back(end * i / 10'000);
  return values;
}

double SumOf(const std::vector<double>& parts) { return std::accumulate(parts.begin(), parts.end(), 0.0); }

TEST(DivideShareTest, OneGroupHasItAll) {
  const std::vector<GroupMeans> one{{Uniform(1), Uniform(1)}};
  EXPECT_NEAR(DivideShare(0.02, one)[0], 0.02, 1e-12);
  EXPECT_EQ(DivideShare(0, one)[0], 0);
}

TEST(DivideShareTest, GoesToTheGroupWhoseTextIsNearToUnrelatedText) {
  // Whatever lies above .5 opens the first without any unrelated text; the second needs every step.
  const std::vector<GroupMeans> groups{{Uniform(0.5), Uniform(4)}, {Uniform(1), Uniform(1)}};
  const auto parts = DivideShare(0.02, groups);
  EXPECT_NEAR(parts[1], 0.02, 1e-12);
  EXPECT_EQ(parts[0], 0);
}

TEST(DivideShareTest, AStepThatOpensNothingIsTakenForTheSakeOfTheNext) {
  // 1 % of unrelated text is above all of the first group's text, which opens at once behind it.
  std::vector<double> tail = Uniform(0.2);
  for (size_t i = 9'900; i < tail.size(); ++i) tail[i] = 2;
  const std::vector<GroupMeans> groups{{tail, std::vector<double>(10'000, 1.0)}, {Uniform(1), Uniform(1)}};
  EXPECT_NEAR(DivideShare(0.02, groups)[0], 0.01, 1e-12);
}

TEST(DivideShareTest, HowMuchTextAGroupHasDoesNotMatter) {
  std::vector<double> few, many;  // of both the steps open less and less
  for (const double value : Uniform(1)) many.push_back(std::sqrt(value));
  for (size_t i = 0; i < many.size(); i += 20) few.push_back(many[i]);
  const auto parts = DivideShare(0.2, std::vector<GroupMeans>{{Uniform(1), few}, {Uniform(1), many}});
  EXPECT_NEAR(parts[0], 0.1, 0.02);
}

TEST(DivideShareTest, NobodyHasLessOfMoreAndTheSumIsKept) {
  std::vector<double> squares;
  for (const double value : Uniform(1)) squares.push_back(value * value);
  const std::vector<GroupMeans> groups{{Uniform(1), squares}, {squares, Uniform(1)}, {Uniform(0.9), squares}};
  std::vector<double> before(3, 0.0);
  for (int step = 0; step <= 60; ++step) {
    const double share = 0.001 * step;
    const auto parts = DivideShare(share, groups);
    EXPECT_NEAR(SumOf(parts), share, 1e-9);
    for (size_t j = 0; j < 3; ++j) EXPECT_GE(parts[j], before[j]);
    before = parts;
  }
}

TEST(DivideShareTest, TextThatIsNotThereHasNoPartBeforeOthersHaveTheirs) {
  const std::vector<GroupMeans> groups{{Uniform(1), {}}, {Uniform(1), Uniform(1)}};
  EXPECT_EQ(DivideShare(0.02, groups)[0], 0);
  EXPECT_NEAR(DivideShare(1, groups)[0], kMostShare, 1e-12);
  EXPECT_EQ(DivideShare(0.02, std::vector<GroupMeans>{{{}, {}}})[0], 0.02);
}

}  // namespace
}  // namespace pointsman
