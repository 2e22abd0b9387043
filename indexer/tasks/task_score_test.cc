#include "indexer/tasks/task_score.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pointsman {
namespace {

TaskAnswers Answers(std::string variant, size_t right, size_t wrong) {
  TaskAnswers answers{std::move(variant), std::vector<uint8_t>(right + wrong)};
  for (size_t i = 0; i < right; ++i) answers.correct[i] = 1;
  return answers;
}

// By counting: 2 (1 + 18 + 153 + 816 + 3,060) / 2^18 and 2 / 2^5.
TEST(McNemar, IsTheExactBinomialTest) {
  EXPECT_NEAR(McNemarP(14, 4), 8096.0 / 262144, 1e-14);
  EXPECT_DOUBLE_EQ(McNemarP(0, 5), 0.0625);
  EXPECT_DOUBLE_EQ(McNemarP(5, 0), 0.0625);
  EXPECT_DOUBLE_EQ(McNemarP(3, 3), 1) << "twice the middle tail is more than 1";
  EXPECT_DOUBLE_EQ(McNemarP(0, 0), 1);
}

TEST(McNemar, IsTheSignFlipTestOfItemDifferences) {
  std::vector<ClusterDifference> differences;
  for (uint64_t i = 0; i < 13; ++i) differences.push_back({i, i < 10 ? 1.0 : -1.0, 1});
  EXPECT_NEAR(McNemarP(10, 3), SignFlipP(differences, {}), 1e-12);
}

// Wilson: the roots of (p - share)^2 = z^2 p (1 - p) / n, for 9 of 12 and 0 of 50.
TEST(Intervals, FollowTheirFormulas) {
  EXPECT_NEAR(WilsonInterval(9, 12).low, 0.4676947, 1e-6);
  EXPECT_NEAR(WilsonInterval(9, 12).high, 0.9110583, 1e-6);
  EXPECT_EQ(WilsonInterval(0, 50).low, 0);
  EXPECT_NEAR(WilsonInterval(0, 50).high, 0.0713476, 1e-6);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
  // By hand: n + 2 = 102, won 13 / 102, lost 5 / 102.
  const double difference = 8.0 / 102, error = std::sqrt((18.0 / 102 - difference * difference) / 102);
  EXPECT_NEAR(PairedShareInterval(12, 4, 100).low, difference - 1.959964 * error, 1e-6);
  EXPECT_NEAR(PairedShareInterval(12, 4, 100).high, difference + 1.959964 * error, 1e-6);
  EXPECT_GT(PairedShareInterval(0, 0, 200).high, 0.01) << "no difference seen is not no difference";
  EXPECT_EQ(PairedShareInterval(0, 0, 200).high, -PairedShareInterval(0, 0, 200).low);
}

TEST(ScoreTask, ComparesItemByItemAndCorrectsForTheNumberOfVariants) {
  std::vector<TaskAnswers> answers{Answers("frozen", 10, 20), Answers("memory", 18, 12), Answers("bias", 10, 20)};
  answers[1].correct[0] = 0;
  const auto report = ScoreTask(answers);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report.value().items, 30u);
  const TaskScore& frozen = report.value().variants[0];
  EXPECT_FALSE(frozen.difference || frozen.p);
  EXPECT_DOUBLE_EQ(frozen.accuracy, 10.0 / 30);
  const TaskScore& memory = report.value().variants[1];
  EXPECT_EQ(memory.wins, 8u);
  EXPECT_EQ(memory.losses, 1u);
  EXPECT_DOUBLE_EQ(*memory.difference, 7.0 / 30);
  EXPECT_DOUBLE_EQ(memory.accuracy, 17.0 / 30);
  EXPECT_DOUBLE_EQ(*memory.p, 2 * McNemarP(8, 1)) << "Holm over two variants";
  EXPECT_DOUBLE_EQ(*report.value().variants[2].p, 1);
}

TEST(ScoreTask, RefusesWhatIsNotPaired) {
  const std::vector<TaskAnswers> alone{Answers("memory", 1, 1)};
  EXPECT_EQ(ScoreTask(alone).error().message, "task: no variant named frozen to compare with; add it to --variants");
  const std::vector<TaskAnswers> other{Answers("frozen", 1, 1), Answers("memory", 1, 2)};
  EXPECT_EQ(ScoreTask(other).error().message,
            "task: variant memory was not asked what frozen was asked; score them again together");
}

}  // namespace
}  // namespace pointsman
