#include "adapt/sequences.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace pointsman {
namespace {

Sequence SequenceOf(size_t length, uint8_t mask = 1) {
  Sequence s;
  for (size_t t = 0; t < length; ++t) {
    s.inputs.push_back(static_cast<int32_t>(10 + t));
    s.targets.push_back(static_cast<int32_t>(11 + t));
    s.mask.push_back(mask);
  }
  return s;
}

TEST(SequencesTest, RowsAreNumberedThroughAllSequences) {
  std::vector<Sequence> sequences{SequenceOf(3), SequenceOf(5), SequenceOf(1)};
  EXPECT_EQ(NumberRows(sequences), 9u);
  EXPECT_EQ(sequences[1].first_row, 3u);
  EXPECT_EQ(sequences[2].first_row, 8u);
}

TEST(SequencesTest, ABatchPadsOnTheRightWithWeightZero) {
  std::vector<Sequence> sequences{SequenceOf(2), SequenceOf(4)};
  NumberRows(sequences);
  const std::vector<uint32_t> members{1, 0};
  const Batch batch = MakeBatch(sequences, members);
  EXPECT_EQ(batch.ids.sizes(), (at::IntArrayRef{2, 4}));
  EXPECT_EQ(batch.weights.sum().item<float>(), 6.0f);
  EXPECT_EQ(batch.weights[1][2].item<float>(), 0.0f);
  EXPECT_EQ(batch.ids[1][2].item<int64_t>(), 0);
  EXPECT_EQ(batch.targets[0][3].item<int64_t>(), 14);
  EXPECT_EQ(batch.rows[0].item<int64_t>(), 2);
  EXPECT_EQ(batch.rows[4].item<int64_t>(), 0);
}

TEST(SequencesTest, MaskedTargetsDoNotCount) {
  const std::vector<Sequence> sequences{SequenceOf(3, 0), SequenceOf(4, 1)};
  EXPECT_EQ(CountTargets(sequences), 4u);
}

TEST(SequencesTest, APlanHoldsEverySequenceOnceAndDependsOnTheSeedAlone) {
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < 50; ++i) sequences.push_back(SequenceOf(1 + (i * 37) % 200));
  const auto plan = PlanBatches(sequences, 16, 7);
  std::multiset<uint32_t> seen;
  for (const auto& batch : plan) {
    EXPECT_LE(batch.size(), 16u);
    seen.insert(batch.begin(), batch.end());
  }
  EXPECT_EQ(seen.size(), 50u);
  EXPECT_EQ(std::set<uint32_t>(seen.begin(), seen.end()).size(), 50u);
  EXPECT_EQ(plan, PlanBatches(sequences, 16, 7));
  EXPECT_NE(plan, PlanBatches(sequences, 16, 8));
}

TEST(SequencesTest, APlanPutsLikeLengthsTogether) {
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < 64; ++i) sequences.push_back(SequenceOf(i % 2 ? 250 : 10));
  for (const auto& batch : PlanBatches(sequences, 16, 1)) {
    for (uint32_t m : batch) EXPECT_EQ(sequences[m].inputs.size(), sequences[batch[0]].inputs.size());
  }
}

}  // namespace
}  // namespace pointsman
