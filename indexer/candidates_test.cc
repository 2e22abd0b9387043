#include "indexer/candidates.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(TrainingSizeTest, AreStepsUntilSixEpochsAreMore) {
  EXPECT_EQ(TrainingSizeOf("default", 1).epochs, 24);    // 24 steps: at most so many epochs
  EXPECT_EQ(TrainingSizeOf("default", 40).epochs, 24);   // 10 steps an epoch
  EXPECT_EQ(TrainingSizeOf("default", 41).epochs, 24);   // 11: 27 and a bit, but at most 24
  EXPECT_EQ(TrainingSizeOf("default", 80).epochs, 15);   // 20
  EXPECT_EQ(TrainingSizeOf("default", 120).epochs, 10);  // 30
  EXPECT_EQ(TrainingSizeOf("default", 200).epochs, 6);   // 50
  EXPECT_EQ(TrainingSizeOf("default", 100'000).epochs, 6);
  EXPECT_EQ(TrainingSizeOf("fast", 1).epochs, 3);
  EXPECT_EQ(TrainingSizeOf("fast", 100'000).max_prototypes, 512u);
}

TEST(TrainingSizeTest, PrototypesGrowWithTheText) {
  EXPECT_EQ(PrototypeCount(100), 256u);
  EXPECT_EQ(PrototypeCount(4'200), 512u);
  EXPECT_EQ(PrototypeCount(10'000), 1024u);
  EXPECT_EQ(PrototypeCount(30'000), 1024u);
  EXPECT_EQ(PrototypeCount(10'000'000), 2048u);
}

}  // namespace
}  // namespace pointsman
