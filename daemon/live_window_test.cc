#include "daemon/live_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace pointsman {
namespace {

using ::testing::HasSubstr;

void AddTokens(LiveWindow& window, int count, float gate, float weight) {
  const std::vector<LayerSignal> layers = {{.layer = 2, .weight = weight, .similarity = 0.5f, .changed = true},
                                           {.layer = 7, .weight = weight, .similarity = 0.25f, .changed = false}};
  for (int i = 0; i < count; ++i) {
    window.Add(gate, gate > 0 ? weight : 0, gate > 0 ? std::span(layers) : std::span<const LayerSignal>());
  }
}

TEST(LiveWindowMeans, AreOverTokensAndSearchedLayers) {
  LiveWindow window(100);
  AddTokens(window, 3, 0.5f, 0.25f);
  AddTokens(window, 1, 0.0f, 0.0f);
  const LiveSignal live = window.Read();
  EXPECT_EQ(live.all.tokens, 4u);
  EXPECT_DOUBLE_EQ(live.all.open_share, 0.75);
  EXPECT_DOUBLE_EQ(live.all.gate_mean, 0.375);
  EXPECT_DOUBLE_EQ(live.all.confidence_mean, 0.1875);
  EXPECT_DOUBLE_EQ(live.all.similarity_mean, 0.375);
  ASSERT_EQ(live.layers.size(), 2u);
  EXPECT_EQ(live.layers[0].layer, 2);
  EXPECT_DOUBLE_EQ(live.layers[0].confidence_mean, 0.1875);
  EXPECT_DOUBLE_EQ(live.layers[0].changed_share, 1);
  EXPECT_DOUBLE_EQ(live.layers[1].changed_share, 0);
}

TEST(LiveWindowMeans, OldTokensAreForgotten) {
  LiveWindow window(100);
  AddTokens(window, 1000, 1.0f, 1.0f);
  AddTokens(window, 101, 0.0f, 0.0f);
  const LiveSignal live = window.Read();
  EXPECT_LE(live.all.tokens, 100u);
  EXPECT_GE(live.all.tokens, 50u);
  EXPECT_EQ(live.all.open_share, 0);
  EXPECT_TRUE(live.layers.empty());
}

TEST(LiveWindowMeans, AnEmptyWindowIsAllZero) {
  const LiveSignal live = LiveWindow().Read();
  EXPECT_EQ(live.all.tokens, 0u);
  EXPECT_EQ(live.all.gate_mean, 0);
}

TEST(LiveWindowMeans, ThreadsAddTogether) {
  LiveWindow window(1 << 20);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { AddTokens(window, 1000, 1.0f, 0.5f); });
  for (int i = 0; i < 20; ++i) EXPECT_LE(window.Read().all.tokens, 4000u);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(window.Read().all.tokens, 4000u);
  EXPECT_DOUBLE_EQ(window.Read().all.confidence_mean, 0.5);
}

RoutingSignal Signal(uint64_t tokens, double open, double gate, double confidence) {
  return {.tokens = tokens, .open_share = open, .gate_mean = gate, .confidence_mean = confidence, .similarity_mean = 0};
}

TEST(DriftAlarm, IsRaisedWhenTheGateShutsOrTheKeysAreFar) {
  const RoutingSignal built = Signal(8000, 0.9, 0.8, 0.4);
  EXPECT_FALSE(DriftOf(Signal(4096, 0.85, 0.7, 0.35), built).alarm);
  EXPECT_EQ(DriftOf(Signal(4096, 0.85, 0.7, 0.35), built).reason, "");
  const Drift shut = DriftOf(Signal(4096, 0.44, 0.4, 0.2), built);
  EXPECT_TRUE(shut.alarm);
  EXPECT_THAT(shut.reason, HasSubstr("44 % of tokens, for 90 %"));
  EXPECT_FALSE(DriftOf(Signal(4096, 0.46, 0.4, 0.2), built).alarm);
  const Drift far = DriftOf(Signal(4096, 0.85, 0.7, 0.1), built);
  EXPECT_TRUE(far.alarm);
  EXPECT_THAT(far.reason, HasSubstr("0.14 against 0.50"));
}

TEST(DriftAlarm, SaysWhyItCannotTell) {
  EXPECT_THAT(DriftOf(Signal(511, 0, 0, 0), Signal(8000, 1, 1, 1)).reason, HasSubstr("511 tokens so far: 512"));
  EXPECT_FALSE(DriftOf(Signal(511, 0, 0, 0), Signal(8000, 1, 1, 1)).alarm);
  EXPECT_THAT(DriftOf(Signal(4096, 0, 0, 0), std::nullopt).reason, HasSubstr("without calibration"));
  EXPECT_FALSE(DriftOf(Signal(4096, 0, 0, 0), Signal(0, 0, 0, 0)).alarm);
  // A memory whose gate never opened in calibration cannot drift further.
  EXPECT_FALSE(DriftOf(Signal(4096, 0, 0, 0), Signal(8000, 0, 0, 0)).alarm);
}

}  // namespace
}  // namespace pointsman
