#include "indexer/additions.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(AddedEpochsTest, FollowTheBuildsRuleAndAreNeverFewerThanItsLeast) {
  Manifest manifest;
  EXPECT_EQ(AddedEpochs(manifest, 1), 24);  // one step an epoch
  manifest.settings["preset"] = "default";
  EXPECT_EQ(AddedEpochs(manifest, 24), 24);     // 6 steps an epoch: as many epochs as there may be
  EXPECT_EQ(AddedEpochs(manifest, 120), 10);    // 30
  EXPECT_EQ(AddedEpochs(manifest, 10'000), 6);  // many steps
  manifest.settings["preset"] = "fast";
  EXPECT_EQ(AddedEpochs(manifest, 24), 6);  // a build has 3
}

}  // namespace
}  // namespace pointsman
