// What a caller of the door sees: when rows stay untouched, what is refused, what is counted and traced.
#include "router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "router/test_tables.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr size_t kLayers = 4;
constexpr uint32_t kLength = 24;

class RouterOnRandomText : public ::testing::Test {
 protected:
  StepResult Run(Binding binding, std::vector<RowTrace>* trace = nullptr) {
    const uint32_t slot = router_.AddSlot(std::move(binding));
    return RunStep(router_, {{slot, &text_, 0, kLength}}, trace);
  }
  // The layers whose logits changed.
  std::vector<int> Changed(const StepResult& result) {
    std::vector<int> layers;
    for (size_t layer = 0; layer < kLayers; ++layer) {
      if (!SameBits(result.logits[layer], text_.logits[layer])) layers.push_back(static_cast<int>(layer));
    }
    return layers;
  }

  Router router_;
  Text text_{1, kLength, kLayers};
};

TEST_F(RouterOnRandomText, ChangesTheLayersThatHaveMemory) {
  const StepResult result = Run({.tables = RandomTables(2), .session = nullptr});
  EXPECT_EQ(Changed(result), (std::vector<int>{0, 1, 3}));
  EXPECT_GT(router_.counters().written, 0u);
  EXPECT_EQ(router_.counters().rows, 3 * kLength);
}

TEST_F(RouterOnRandomText, SomeRowsOfAStepGetWhatTheyGetAmongAll) {
  const Binding binding{.tables = RandomTables(2), .session = RandomSession(3, kLayers)};
  const StepResult all = Run(binding);
  const uint64_t rows_of_all = router_.counters().rows;

  const uint32_t slot = router_.AddSlot(binding);
  std::vector<uint32_t> positions(kLength);
  std::iota(positions.begin(), positions.end(), 0u);
  auto step = router_.BeginStep(std::vector<uint32_t>(kLength, slot), positions, text_.tokens);
  ASSERT_TRUE(step.ok()) << step.error().message;
  const std::vector<uint32_t> rows = {2, 3, 11, kLength - 1};
  std::vector<float> hidden, logits, expected;
  const auto take = [&](const std::vector<float>& matrix, uint32_t width, std::vector<float>& out) {
    for (const uint32_t row : rows) std::ranges::copy_n(matrix.begin() + row * width, width, std::back_inserter(out));
  };
  take(text_.hidden[3], kHidden, hidden);
  take(text_.logits[3], kExperts, logits);
  take(all.logits[3], kExperts, expected);
  std::vector<RowTrace> trace;
  const Status status = router_.Route(step.value(), 3, hidden, logits, &trace, rows);
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_TRUE(SameBits(logits, expected));
  EXPECT_EQ(router_.counters().rows - rows_of_all, rows.size());
  ASSERT_EQ(trace.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(trace[i].row, rows[i]);
}

TEST_F(RouterOnRandomText, FrozenSlotKeepsItsBits) {
  const StepResult result = RunStep(router_, {{0, &text_, 0, kLength}});
  EXPECT_THAT(Changed(result), IsEmpty());
  EXPECT_EQ(router_.counters().rows, 0u);
}

TEST_F(RouterOnRandomText, EmptyTablesKeepTheirBits) {
  EXPECT_THAT(Changed(Run({.tables = RandomTables(2, {.layers = {}}), .session = nullptr})), IsEmpty());
  EXPECT_THAT(Changed(Run({.tables = RandomTables(2, {.rows = 0}), .session = nullptr})), IsEmpty());
  EXPECT_THAT(Changed(Run({})), IsEmpty());
  EXPECT_EQ(router_.counters().touched, 0u);
}

TEST_F(RouterOnRandomText, StrengthZeroKeepsItsBits) {
  const StepResult result = Run({.tables = RandomTables(2), .session = nullptr, .strength = 0});
  EXPECT_THAT(Changed(result), IsEmpty());
  EXPECT_EQ(router_.counters().touched, 0u);
}

TEST_F(RouterOnRandomText, ShutGateKeepsItsBits) {
  OwnedTables owned = RandomOwnedTables(2, {.trained_parts = true});
  owned.gate.groups[0].lo = 1.5f;  // no evidence reaches it
  owned.gate.groups[0].hi = 2.0f;
  const StepResult result = Run({.tables = MakeTables(std::move(owned)), .session = nullptr});
  EXPECT_THAT(Changed(result), IsEmpty());
  EXPECT_EQ(result.gate, std::vector<float>(kLength, 0.0f));
  EXPECT_EQ(router_.counters().gate_shut, 3 * kLength);
}

TEST_F(RouterOnRandomText, PartlyShutGateLeavesJustThoseRows) {
  const StepResult result = Run({.tables = RandomTables(2, {.trained_parts = true}), .session = nullptr});
  size_t shut = 0, open = 0;
  for (uint32_t row = 0; row < kLength; ++row) {
    const auto after = std::span(result.logits[1]).subspan(row * kExperts, kExperts);
    const auto before = std::span(text_.logits[1]).subspan(row * kExperts, kExperts);
    EXPECT_EQ(SameBits(after, before), result.gate[row] == 0) << "row " << row;
    (result.gate[row] == 0 ? shut : open) += 1;
  }
  EXPECT_GT(shut, 0u) << "the fixture no longer covers a shut gate";
  EXPECT_GT(open, 0u);
  EXPECT_EQ(router_.counters().gate_shut, 3 * shut);
}

TEST_F(RouterOnRandomText, ShadowComputesAndCountsButWritesNothing) {
  std::vector<RowTrace> shadow_trace, live_trace;
  const auto tables = RandomTables(2);
  const auto session = RandomSession(3, kLayers);
  EXPECT_THAT(Changed(Run({.tables = tables, .session = session, .shadow = true}, &shadow_trace)), IsEmpty());
  EXPECT_GT(router_.counters().touched, 0u);
  EXPECT_EQ(router_.counters().written, 0u);
  Run({.tables = tables, .session = session}, &live_trace);
  ASSERT_EQ(shadow_trace.size(), live_trace.size());
  for (size_t i = 0; i < live_trace.size(); ++i) {
    EXPECT_FALSE(shadow_trace[i].written);
    EXPECT_TRUE(SameBits(shadow_trace[i].logits_after, live_trace[i].logits_after));
  }
}

TEST_F(RouterOnRandomText, KillSwitchKeepsBitsAtOnceAndEndsWithTheNextStep) {
  const uint32_t slot = router_.AddSlot({.tables = RandomTables(2, {.gate = false}), .session = nullptr});
  router_.SetKillSwitch(true);
  EXPECT_THAT(Changed(RunStep(router_, {{slot, &text_, 0, 20}, {0, &text_, 20, kLength}})), IsEmpty());

  router_.SetKillSwitch(false);
  auto step = router_.BeginStep(std::vector<uint32_t>{slot}, std::vector<uint32_t>{20}, {});
  ASSERT_TRUE(step.ok()) << step.error().message;
  std::vector<float> hidden(kHidden, 0.5f), logits(kExperts, 1.0f);
  router_.SetKillSwitch(true);
  ASSERT_TRUE(router_.Route(step.value(), 0, hidden, logits).ok());
  router_.SetKillSwitch(false);
  ASSERT_TRUE(router_.Route(step.value(), 1, hidden, logits).ok());
  EXPECT_EQ(logits, std::vector<float>(kExperts, 1.0f)) << "a step that was switched off once stays off";
  step = router_.BeginStep(std::vector<uint32_t>{slot}, std::vector<uint32_t>{21}, {});
  ASSERT_TRUE(step.ok()) << step.error().message;
  ASSERT_TRUE(router_.Route(step.value(), 1, hidden, logits).ok());
  EXPECT_NE(logits, std::vector<float>(kExperts, 1.0f));
}

TEST_F(RouterOnRandomText, SessionIsAddedWhateverGateAndStrengthSay) {
  const auto session = RandomSession(3, 2);  // layers 0 and 1
  const StepResult result = Run({.tables = RandomTables(2), .session = session, .strength = 0});
  EXPECT_EQ(Changed(result), (std::vector<int>{0, 1}));
  for (size_t i = 0; i < result.logits[1].size(); ++i) {
    EXPECT_EQ(result.logits[1][i], text_.logits[1][i] + session->by_layer[1][i % kExperts]);
  }
  EXPECT_EQ(router_.counters().touched, 0u);
  EXPECT_EQ(router_.counters().written, 2 * kLength);
}

TEST_F(RouterOnRandomText, NonFiniteRowsStayAndTheirNeighboursDoNotNotice) {
  const auto tables = RandomTables(2);
  const StepResult clean = Run({.tables = tables, .session = nullptr});
  text_.hidden[1][5 * kHidden + 3] = kNan;
  text_.logits[1][7 * kExperts] = std::numeric_limits<float>::infinity();
  const StepResult dirty = Run({.tables = tables, .session = nullptr});
  EXPECT_EQ(router_.counters().non_finite, 2u);
  for (uint32_t row = 0; row < kLength; ++row) {
    const bool bad = row == 5 || row == 7;
    const auto& expected = bad ? text_.logits[1] : clean.logits[1];
    EXPECT_TRUE(SameBits(std::span(dirty.logits[1]).subspan(row * kExperts, kExperts),
                         std::span(expected).subspan(row * kExperts, kExperts)))
        << "row " << row;
  }
}

TEST_F(RouterOnRandomText, TheGateReadsTokensAlone) {
  const StepResult clean = Run({.tables = RandomTables(2), .session = nullptr});
  text_.hidden[0][2 * kHidden] = kNan;
  EXPECT_EQ(Run({.tables = RandomTables(2), .session = nullptr}).gate, clean.gate);
  EXPECT_EQ(router_.counters().non_finite, 1u);
  text_.tokens[3] = (text_.tokens[3] + 1) % static_cast<int32_t>(kVocabulary);
  EXPECT_NE(Run({.tables = RandomTables(2), .session = nullptr}).gate, clean.gate);
}

TEST_F(RouterOnRandomText, WithoutTokensTheGateStaysShut) {
  text_.tokens.assign(kLength, -1);
  const StepResult result = Run({.tables = RandomTables(2), .session = nullptr});
  EXPECT_EQ(result.gate, std::vector<float>(kLength, 0.0f));
  EXPECT_THAT(Changed(result), IsEmpty());
}

TEST_F(RouterOnRandomText, TheGateGoesOnReadingWhileTheKillSwitchIsOn) {
  const StepResult whole = Run({.tables = RandomTables(2), .session = nullptr});
  const uint32_t slot = router_.AddSlot({.tables = RandomTables(2), .session = nullptr});
  router_.SetKillSwitch(true);
  EXPECT_THAT(Changed(RunStep(router_, {{slot, &text_, 0, 10}, {0, &text_, 10, kLength}})), IsEmpty());
  router_.SetKillSwitch(false);
  const StepResult rest = RunStep(router_, {{slot, &text_, 10, kLength}});
  EXPECT_EQ(rest.gate, std::vector<float>(whole.gate.begin() + 10, whole.gate.end()));
}

TEST_F(RouterOnRandomText, AResultThatOverflowsIsNotWritten) {
  auto session = std::make_shared<SessionVectors>();
  session->by_layer = {std::vector<float>(kExperts, 3e38f)};
  text_.logits[0][4] = 2e38f;
  const StepResult result = Run({.tables = nullptr, .session = session});
  EXPECT_EQ(router_.counters().non_finite, 1u);
  EXPECT_EQ(result.logits[0][4], 2e38f);
  EXPECT_NE(result.logits[0][kExperts], text_.logits[0][kExperts]);
}

TEST_F(RouterOnRandomText, TraceShowsNeighboursGateAndBothLogits) {
  std::vector<RowTrace> trace;
  const StepResult result = Run({.tables = RandomTables(2), .session = nullptr}, &trace);
  ASSERT_EQ(trace.size(), 3 * kLength);
  for (size_t i = 0; i < trace.size(); ++i) {
    const RowTrace& entry = trace[i];
    EXPECT_EQ(entry.row, i % kLength);
    EXPECT_EQ(entry.layer, (std::vector<int32_t>{0, 1, 3})[i / kLength]);
    EXPECT_EQ(entry.gate, result.gate[entry.row]);
    EXPECT_EQ(entry.written, entry.gate > 0);
    EXPECT_EQ(entry.neighbours.size(), entry.gate > 0 ? 4u : 0u);
    EXPECT_TRUE(
        SameBits(entry.logits_before, std::span(text_.logits[entry.layer]).subspan(entry.row * kExperts, kExperts)));
    EXPECT_TRUE(
        SameBits(entry.logits_after, std::span(result.logits[entry.layer]).subspan(entry.row * kExperts, kExperts)));
    if (entry.gate > 0) {
      EXPECT_GT(entry.confidence, 0);
      EXPECT_GE(entry.neighbours[0].similarity, entry.neighbours[3].similarity);
    }
  }
}

TEST_F(RouterOnRandomText, StrengthIsCutOffAtOneAndCanChange) {
  const auto tables = RandomTables(2, {.gate = false});
  const uint32_t slot = router_.AddSlot({.tables = tables, .session = nullptr, .strength = 7});
  const StepResult cut_off = RunStep(router_, {{slot, &text_, 0, kLength}});
  EXPECT_EQ(cut_off.logits, Run({.tables = tables, .session = nullptr}).logits);
  router_.SetStrength(slot, kNan);
  EXPECT_THAT(Changed(RunStep(router_, {{slot, &text_, 0, kLength}})), IsEmpty());
}

TEST_F(RouterOnRandomText, ASessionCanBeReplacedWithoutLosingTheGate) {
  const auto tables = RandomTables(2);
  const auto session = RandomSession(3, kLayers);
  const uint32_t replaced = router_.AddSlot({.tables = tables, .session = nullptr});
  const uint32_t always = router_.AddSlot({.tables = tables, .session = session});
  RunStep(router_, {{replaced, &text_, 0, 5}, {always, &text_, 0, 5}});
  router_.SetSession(replaced, session);
  const StepResult result = RunStep(router_, {{replaced, &text_, 5, 10}, {always, &text_, 5, 10}});
  const size_t half = result.logits[0].size() / 2;
  for (const std::vector<float>& layer : result.logits) {
    EXPECT_TRUE(SameBits(std::span(layer).first(half), std::span(layer).last(half)));
  }
  EXPECT_EQ(router_.GateHistory(replaced), router_.GateHistory(always));
  router_.SetSession(replaced, nullptr);
  router_.SetStrength(replaced, 0);
  EXPECT_THAT(Changed(RunStep(router_, {{replaced, &text_, 0, kLength}})), IsEmpty());
}

TEST_F(RouterOnRandomText, WithoutTokensTheTokenTableIsOff) {
  const auto with_table = RandomTables(2, {.gate = false, .trained_parts = true});
  OwnedTables owned = RandomOwnedTables(2, {.gate = false, .trained_parts = true});
  for (OwnedLayer& layer : owned.layers) layer.token_table_scales.assign(kVocabulary, 0.0f);
  const StepResult with_zeros = Run({.tables = MakeTables(std::move(owned)), .session = nullptr});
  EXPECT_NE(Run({.tables = with_table, .session = nullptr}).logits, with_zeros.logits);
  text_.tokens.assign(kLength, -1);
  EXPECT_EQ(Run({.tables = with_table, .session = nullptr}).logits, with_zeros.logits);
}

TEST_F(RouterOnRandomText, GateHistoryHasAValueForEveryPosition) {
  const uint32_t gated = router_.AddSlot({.tables = RandomTables(2), .session = nullptr});
  const uint32_t open = router_.AddSlot({.tables = RandomTables(2, {.gate = false}), .session = nullptr});
  const StepResult result = RunStep(router_, {{gated, &text_, 0, 10}, {open, &text_, 0, 3}});
  EXPECT_EQ(router_.GateHistory(gated), std::vector<float>(result.gate.begin(), result.gate.begin() + 10));
  EXPECT_EQ(router_.GateHistory(open), std::vector<float>(3, 1.0f));
  EXPECT_THAT(router_.GateHistory(99), IsEmpty());
}

// -- What is refused. Every error names the thing and the remedy, and leaves the logits alone.

class RouterRefuses : public RouterOnRandomText {
 protected:
  std::string BeginError(std::vector<uint32_t> slots, std::vector<uint32_t> positions,
                         std::vector<int32_t> tokens = {}) {
    const auto step = router_.BeginStep(slots, positions, tokens);
    if (step.ok()) return "accepted";
    EXPECT_EQ(step.error().code, ErrorCode::kInvalidArgument);
    return step.error().message;
  }
  std::string RouteError(Step& step, int32_t layer, size_t hidden_size, size_t logits_size) {
    const std::vector<float> hidden(hidden_size, 0.5f);
    std::vector<float> logits(logits_size, 1.0f);
    const Status status = router_.Route(step, layer, hidden, logits);
    if (status.ok()) return "accepted";
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(logits, std::vector<float>(logits_size, 1.0f));
    return status.error().message;
  }
  Step Begin(std::vector<uint32_t> slots, std::vector<uint32_t> positions) {
    return router_.BeginStep(slots, positions, {}).value();
  }

  uint32_t slot_ = router_.AddSlot({.tables = RandomTables(2), .session = nullptr});
};

TEST_F(RouterRefuses, StepsThatDoNotFit) {
  EXPECT_THAT(BeginError({slot_, slot_}, {0}), HasSubstr("2 slots, 1 positions"));
  EXPECT_THAT(BeginError({slot_}, {0}, {1, 2}), HasSubstr("2 tokens"));
  EXPECT_THAT(BeginError({slot_ + 1}, {0}), HasSubstr("slot 2 is not live; call AddSlot"));
  EXPECT_THAT(BeginError({slot_}, {1}), HasSubstr("position 1 of slot 1 skips over unseen ones; go on at 0 or below"));
  EXPECT_THAT(BeginError({slot_, slot_}, {0, 2}), HasSubstr("must be 1"));
  EXPECT_THAT(BeginError({slot_, 0, slot_}, {0, 9, 0}), HasSubstr("row 2: position 0 of slot 1 must be 1"));
  EXPECT_EQ(BeginError({slot_, 0, slot_}, {0, 9, 1}), "accepted");
}

TEST_F(RouterRefuses, ARefusedStepChangesNothing) {
  RunStep(router_, {{slot_, &text_, 0, 10}});
  const auto history = router_.GateHistory(slot_);
  EXPECT_NE(BeginError({slot_, slot_}, {2, 5}), "accepted");
  EXPECT_EQ(router_.GateHistory(slot_), history);
  EXPECT_EQ(BeginError({slot_}, {10}), "accepted");
}

TEST_F(RouterRefuses, ShapesThatDoNotFit) {
  Step step = Begin({slot_, slot_}, {0, 1});
  EXPECT_THAT(RouteError(step, 0, 2 * kHidden + 1, 2 * kExperts), HasSubstr("not 2 equal rows"));
  EXPECT_THAT(RouteError(step, 0, 2 * kHidden + 2, 2 * kExperts), HasSubstr("hidden size is 13"));
  EXPECT_THAT(RouteError(step, 0, 2 * kHidden, 2 * kExperts - 2), HasSubstr("9 experts, the memory has 10"));
  EXPECT_EQ(RouteError(step, 0, 2 * kHidden, 2 * kExperts), "accepted");
  EXPECT_EQ(RouteError(step, 2, 2, 2), "accepted") << "a layer without memory has no shape to fit";
}

TEST_F(RouterRefuses, ASessionOfAnotherModel) {
  auto session = std::make_shared<SessionVectors>();
  session->by_layer = {std::vector<float>(kExperts + 1)};
  Step step = Begin({router_.AddSlot({.tables = nullptr, .session = session})}, {0});
  EXPECT_THAT(RouteError(step, 0, kHidden, kExperts), HasSubstr("the session's vector has 11"));
}

TEST_F(RouterRefuses, TrainedPartsWithoutDeltas) {
  const auto tables = RandomTables(2, {.kind = ValueKind::kLogits, .trained_parts = true});
  Step step = Begin({router_.AddSlot({.tables = tables, .session = nullptr})}, {0});
  EXPECT_THAT(RouteError(step, 0, kHidden, kExperts), HasSubstr("need the value kind delta"));
}

TEST_F(RouterRefuses, RowsThatDoNotAscend) {
  Step step = Begin({slot_, slot_}, {0, 1});
  for (const std::vector<uint32_t>& rows : {std::vector<uint32_t>{1, 0}, {1, 1}, {0, 2}}) {
    std::vector<float> hidden(rows.size() * kHidden), logits(rows.size() * kExperts);
    const Status status = router_.Route(step, 1, hidden, logits, nullptr, rows);
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, HasSubstr("ascending order"));
  }
}

TEST_F(RouterRefuses, AGateOutsideItsRange) {
  Step step = Begin({slot_}, {0});
  for (const float gate : {1.5f, -0.5f, kNan}) {
    step.gate[0] = gate;
    EXPECT_THAT(RouteError(step, 1, kHidden, kExperts), HasSubstr("set it within 0..1"));
  }
  step.gate[0] = 0.5f;
  EXPECT_EQ(RouteError(step, 1, kHidden, kExperts), "accepted") << "the caller may know the gate";
}

TEST_F(RouterRefuses, StaleSteps) {
  Step old = Begin({slot_}, {0});
  Step altered = Begin({slot_}, {0});
  EXPECT_THAT(RouteError(old, 0, kHidden, kExperts), HasSubstr("stale"));
  altered.slots.push_back(0);
  EXPECT_THAT(RouteError(altered, 0, 2 * kHidden, 2 * kExperts), HasSubstr("stale or was altered"));
}

TEST_F(RouterRefuses, SlotsReleasedDuringTheStep) {
  Step step = Begin({slot_}, {0});
  router_.ReleaseSlot(slot_);
  EXPECT_THAT(RouteError(step, 0, kHidden, kExperts), HasSubstr("slot 1 was released during the step"));
  EXPECT_EQ(router_.AddSlot({}), slot_) << "released ids are given out again";
  EXPECT_THAT(RouteError(step, 0, kHidden, kExperts), HasSubstr("slot 1 was released during the step"));
}

}  // namespace
}  // namespace pointsman
