#include "indexer/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace pointsman {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int32_t kEnd = 999;

std::vector<int32_t> Tokens(uint32_t n) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 10);
  return tokens;
}

// How often each token of each document is scored.
std::vector<std::vector<int>> TimesScored(const std::vector<uint32_t>& lengths, const WindowOptions& options) {
  std::vector<std::vector<int>> times;
  for (const uint32_t length : lengths) times.emplace_back(length, 0);
  for (const Window& w : MakeWindows(lengths, options)) {
    EXPECT_GT(w.scored(), 0u);
    EXPECT_LE(w.length, options.context);
    for (uint32_t i = w.scored_from; i < w.length; ++i) ++times[w.document].at(w.begin + i);
  }
  return times;
}

TEST(WindowsTest, EveryTokenIsScoredOnceForAnyContextAndStride) {
  const std::vector<uint32_t> lengths = {0, 1, 7, 8, 9, 16, 17, 100};
  for (const uint32_t context : {1u, 2u, 8u, 33u, 200u}) {
    for (uint32_t stride = 0; stride <= context; stride += std::max(1u, context / 4)) {
      for (const auto& document : TimesScored(lengths, {context, stride})) {
        for (const int times : document) EXPECT_EQ(times, 1) << "context " << context << " stride " << stride;
      }
    }
  }
}

TEST(WindowsTest, WithoutOverlapTheDocumentIsCutIntoPieces) {
  const auto windows = MakeWindows(std::vector<uint32_t>{10}, {.context = 4});
  ASSERT_EQ(windows.size(), 3u);
  const auto tokens = Tokens(10);
  EXPECT_THAT(WindowInputs(windows[0], tokens, kEnd), ElementsAre(kEnd, 10, 11, 12));
  EXPECT_THAT(WindowTargets(windows[0], tokens), ElementsAre(10, 11, 12, 13));
  EXPECT_THAT(WindowInputs(windows[1], tokens, kEnd), ElementsAre(13, 14, 15, 16));
  EXPECT_EQ(windows[2].length, 2u);
  EXPECT_THAT(WindowTargets(windows[2], tokens), ElementsAre(18, 19));
}

TEST(WindowsTest, OverlappingWindowsKeepTheFullContext) {
  const auto windows = MakeWindows(std::vector<uint32_t>{5, 9}, {.context = 4, .stride = 2});
  ASSERT_EQ(windows.size(), 6u);
  EXPECT_EQ(windows[1].document, 0u);
  EXPECT_EQ(windows[1].begin, 1u);  // the last window of the first document reaches back to a full context
  EXPECT_EQ(windows[1].length, 4u);
  EXPECT_EQ(windows[1].scored_from, 3u);
  EXPECT_EQ(windows[3].begin, 2u);
  EXPECT_EQ(windows[3].scored(), 2u);
}

TEST(LossMaskTest, MarksTokensThatTouchASpan) {
  // "ask|: |an|swer" with "answer" to be learned: bytes 5..11.
  const std::vector<uint32_t> bytes = {3, 2, 2, 4};
  EXPECT_THAT(LossMask(bytes, std::vector<ByteSpan>{{5, 11}}), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(LossMask(bytes, std::vector<ByteSpan>{{4, 11}}), ElementsAre(0, 1, 1, 1));  // the token straddles
  EXPECT_THAT(LossMask(bytes, std::vector<ByteSpan>{{0, 1}, {7, 8}}), ElementsAre(1, 0, 0, 1));
  EXPECT_THAT(LossMask(bytes, {}), IsEmpty());
}

}  // namespace
}  // namespace pointsman
