// The promise of bit-exactness: a row's result depends on that row and its sequence's earlier rows only.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "router/router.h"
#include "router/test_tables.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures

constexpr size_t kLayers = 4;
constexpr uint32_t kLength = 30;

std::span<const float> RowsOf(const std::vector<float>& logits, size_t first, size_t count) {
  return std::span(logits).subspan(first * kExperts, count * kExperts);
}

// A sequence routed alone, in one piece: what every other way of routing it must reproduce.
StepResult Alone(const Binding& binding, const Text& text) {
  Router router;
  return RunStep(router, {{router.AddSlot(binding), &text, 0, kLength}});
}

class EveryValueKind : public ::testing::TestWithParam<ValueKind> {
 protected:
  Binding MakeBinding(uint32_t seed) const {
    const bool delta = GetParam() == ValueKind::kDelta;
    return {.tables = RandomTables(seed, {.kind = GetParam(), .trained_parts = delta}),
            .session = seed % 2 == 0 ? RandomSession(seed, 3) : nullptr,
            .strength = 0.75f};
  }
  void ExpectSame(const StepResult& got, size_t got_first, const StepResult& want, size_t want_first, size_t count) {
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(got.gate[got_first + i], want.gate[want_first + i]);
    for (size_t layer = 0; layer < kLayers; ++layer) {
      EXPECT_TRUE(SameBits(RowsOf(got.logits[layer], got_first, count), RowsOf(want.logits[layer], want_first, count)))
          << "layer " << layer << ", row " << want_first;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Blend, EveryValueKind,
                         ::testing::Values(ValueKind::kDelta, ValueKind::kLogits, ValueKind::kAssignments));

TEST_P(EveryValueKind, PrefillAndTokenByTokenAgree) {
  const Text text(1, kLength, kLayers);
  const Binding binding = MakeBinding(2);
  const StepResult prefill = Alone(binding, text);
  const auto [least, most] = std::ranges::minmax(prefill.gate);
  EXPECT_LT(least, most) << "the fixture's gate no longer moves";
  Router router;
  const uint32_t slot = router.AddSlot(binding);
  for (uint32_t position = 0; position < kLength; ++position) {
    ExpectSame(RunStep(router, {{slot, &text, position, position + 1}}), 0, prefill, position, 1);
  }
}

TEST_P(EveryValueKind, ChunksOfAnySizeAgree) {
  const Text text(3, kLength, kLayers);
  const Binding binding = MakeBinding(4);
  const StepResult prefill = Alone(binding, text);
  Router router;
  const uint32_t slot = router.AddSlot(binding);
  uint32_t first = 0;
  for (const uint32_t size : {1u, 2u, 5u, 9u, 13u}) {
    ExpectSame(RunStep(router, {{slot, &text, first, first + size}}), 0, prefill, first, size);
    first += size;
  }
  EXPECT_EQ(first, kLength);
}

TEST_P(EveryValueKind, ThreadsThatSearchChangeNoBit) {
  const Text text(3, kLength, kLayers);
  const Binding binding{.tables = RandomTables(5, {.kind = GetParam(), .rows = 10'000}), .session = nullptr};
  const StepResult alone = Alone(binding, text);
  Router router;
  size_t parts_run = 0;
  router.LendThreads({.count = 3, .run = [&](size_t parts, const std::function<void(size_t)>& work) {
                        for (size_t part = parts; part > 0; --part) work(part - 1);
                        parts_run += parts;
                      }});
  ExpectSame(RunStep(router, {{router.AddSlot(binding), &text, 0, kLength}}), 0, alone, 0, kLength);
  EXPECT_GT(parts_run, 3) << "the fixture's memory is no longer large enough to be shared out";
}

TEST_P(EveryValueKind, BatchesOfSlotsWithDifferentMemoriesAgreeWithEachAlone) {
  Random random(5);
  std::vector<Text> texts;
  std::vector<Binding> bindings = {MakeBinding(6), MakeBinding(7), {}, MakeBinding(8)};
  bindings.push_back(bindings[0]);  // two sequences share a memory
  for (uint32_t i = 0; i < bindings.size(); ++i) texts.emplace_back(10 + i, kLength, kLayers);
  std::vector<StepResult> alone;
  for (size_t i = 0; i < bindings.size(); ++i) alone.push_back(Alone(bindings[i], texts[i]));

  Router router;
  std::vector<uint32_t> slots, done(bindings.size(), 0);
  for (const Binding& binding : bindings) slots.push_back(router.AddSlot(binding));
  while (std::accumulate(done.begin(), done.end(), 0u) < kLength * bindings.size()) {
    std::vector<Piece> pieces;
    std::vector<size_t> owners;
    for (int i = 0; i < 8; ++i) {  // a sequence may come back in the same step, rows of others in between
      const size_t owner = random.Below(static_cast<uint32_t>(bindings.size()));
      const uint32_t last = std::min(kLength, done[owner] + 1 + random.Below(4));
      if (last == done[owner]) continue;
      pieces.push_back({slots[owner], &texts[owner], done[owner], last});
      owners.push_back(owner);
      done[owner] = last;
    }
    if (pieces.empty()) continue;
    const StepResult result = RunStep(router, pieces);
    size_t row = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const size_t count = pieces[i].last - pieces[i].first;
      ExpectSame(result, row, alone[owners[i]], pieces[i].first, count);
      row += count;
    }
  }
}

TEST_P(EveryValueKind, RewindingEqualsAFreshSequence) {
  const Text text(20, kLength, kLayers);
  const Text discarded(21, kLength, kLayers);
  const Binding binding = MakeBinding(22);
  const StepResult fresh = Alone(binding, text);
  Router router;
  const uint32_t slot = router.AddSlot(binding);
  RunStep(router, {{slot, &text, 0, 12}});
  RunStep(router, {{slot, &discarded, 12, 25}});  // a draft that is thrown away
  ExpectSame(RunStep(router, {{slot, &text, 12, kLength}}), 0, fresh, 12, kLength - 12);
  RunStep(router, {{slot, &discarded, 0, 5}});
  ExpectSame(RunStep(router, {{slot, &text, 0, kLength}}), 0, fresh, 0, kLength);
  EXPECT_EQ(router.GateHistory(slot), fresh.gate);
}

TEST_P(EveryValueKind, AReusedSlotRemembersNothing) {
  const Text text(30, kLength, kLayers);
  const Text earlier(31, kLength, kLayers);
  Router router;
  const uint32_t first = router.AddSlot(MakeBinding(32));
  RunStep(router, {{first, &earlier, 0, kLength}});
  router.ReleaseSlot(first);
  const uint32_t second = router.AddSlot(MakeBinding(33));
  ASSERT_EQ(first, second);
  ExpectSame(RunStep(router, {{second, &text, 0, kLength}}), 0, Alone(MakeBinding(33), text), 0, kLength);
}

}  // namespace
}  // namespace pointsman
