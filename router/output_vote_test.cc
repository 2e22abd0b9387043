#include "router/output_vote.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "router/test_tables.h"

namespace pointsman {
namespace {

using testing::Random;
using testing::SameBits;

constexpr int32_t kTokens = 50;

// p' by the formula as it is written: probabilities in long double, no logits kept.
std::vector<long double> Mixture(const std::vector<float>& logits, std::span<const Neighbour> found,
                                 const std::vector<int32_t>& next, double tau, double weight) {
  long double norm = 0, total = 0;
  for (const float z : logits) norm += std::exp(static_cast<long double>(z));
  for (const Neighbour& n : found) total += std::exp(static_cast<long double>(n.similarity) / tau);
  std::vector<long double> p;
  for (const float z : logits) p.push_back((1 - weight) * std::exp(static_cast<long double>(z)) / norm);
  for (const Neighbour& n : found) {
    p[next[n.row]] += weight * std::exp(static_cast<long double>(n.similarity) / tau) / total;
  }
  return p;
}

struct VoteCase {
  OutputView View() const {
    OutputView view;
    view.enabled = true;
    view.vocabulary = kTokens;
    view.tau = tau;
    view.keys.rows = next.size();
    view.next_tokens = next;
    return view;
  }
  std::vector<float> logits;
  std::vector<int32_t> next;
  std::vector<Neighbour> found;  // best first
  float tau = 0.1f;
};

// 16 neighbours among 30 entries whose next tokens repeat.
VoteCase RandomCase(uint32_t seed) {
  Random random(seed);
  VoteCase c;
  c.logits = random.Floats(kTokens, -6, 6);
  for (int i = 0; i < 30; ++i) c.next.push_back(static_cast<int32_t>(random.Below(7) * 7));
  float similarity = 0.98f;
  for (uint32_t i = 0; i < 16; ++i) {
    c.found.push_back({similarity, random.Below(30)});
    similarity -= random.Uniform(0, 0.05f);
  }
  c.tau = random.Uniform(0.05f, 0.2f);
  return c;
}

TEST(OutputVote, IsTheMixtureOfProbabilities) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const VoteCase c = RandomCase(seed);
    for (const double weight : {1e-6, 0.1, 0.5, 0.99}) {
      std::vector<float> logits = c.logits;
      ASSERT_TRUE(OutputVoter().Vote(c.View(), c.found, weight, logits));
      const auto expected = Mixture(c.logits, c.found, c.next, c.tau, weight);
      const double norm = LogSumExp(logits);
      for (int32_t v = 0; v < kTokens; ++v) {
        EXPECT_NEAR(logits[v] - norm, static_cast<double>(std::log(expected[v])), 2e-6) << seed << " " << v;
      }
    }
  }
}

TEST(OutputVote, FarNeighboursSayLess) {
  VoteCase c = RandomCase(7);
  OutputView view = c.View();
  view.tau2 = 0.25f;
  for (const float nearest : {1.0f, 0.8f, 0.2f}) {
    const float down = nearest - c.found.front().similarity;
    for (Neighbour& n : c.found) n.similarity += down;
    std::vector<float> logits = c.logits;
    ASSERT_TRUE(OutputVoter().Vote(view, c.found, 0.8, logits));
    const auto expected = Mixture(c.logits, c.found, c.next, c.tau, 0.8 * std::exp((double{nearest} - 1) / 0.25));
    const double norm = LogSumExp(logits);
    for (int32_t v = 0; v < kTokens; ++v) {
      EXPECT_NEAR(logits[v] - norm, static_cast<double>(std::log(expected[v])), 2e-6) << nearest << " " << v;
    }
  }
  view.tau2 = 1e-30f;  // so far that the weight is no number above 0
  std::vector<float> logits = c.logits;
  EXPECT_FALSE(OutputVoter().Vote(view, c.found, 0.8, logits));
  EXPECT_TRUE(SameBits(logits, c.logits));
}

TEST(OutputVote, LeavesTokensWithoutAVoteTheirBits) {
  const VoteCase c = RandomCase(3);
  std::vector<float> logits = c.logits;
  ASSERT_TRUE(OutputVoter().Vote(c.View(), c.found, 0.5, logits));
  int raised = 0;
  for (int32_t v = 0; v < kTokens; ++v) {
    bool voted = false;
    for (const Neighbour& n : c.found) voted |= c.next[n.row] == v;
    EXPECT_EQ(SameBits(std::span(&logits[v], 1), std::span(&c.logits[v], 1)), !voted) << v;
    EXPECT_EQ(logits[v] > c.logits[v], voted) << v;  // before the common factor is taken out, votes only raise
    raised += voted;
  }
  EXPECT_GT(raised, 1);
}

TEST(OutputVote, WithoutWeightOrNeighboursNothingIsWritten) {
  const VoteCase c = RandomCase(4);
  const std::vector<Neighbour> absent(3);
  OutputVoter voter;
  std::vector<float> logits = c.logits;
  EXPECT_FALSE(voter.Vote(c.View(), c.found, 0.0, logits));
  EXPECT_FALSE(voter.Vote(c.View(), absent, 0.5, logits));
  EXPECT_FALSE(voter.Vote(c.View(), {}, 0.5, logits));
  EXPECT_TRUE(SameBits(logits, c.logits));
}

// A token that the model gives no chance at all, and logits far from 0: neither overflows nor becomes log 0.
TEST(OutputVote, ExtremeLogitsStayFinite) {
  VoteCase c = RandomCase(5);
  c.logits.assign(kTokens, -3e38f);
  c.logits[1] = 3e38f;
  c.next.assign(c.next.size(), 2);
  ASSERT_TRUE(OutputVoter().Vote(c.View(), c.found, 0.5, c.logits));
  EXPECT_FLOAT_EQ(c.logits[2], 3e38f);  // half of the probability, beside the other half
  EXPECT_EQ(c.logits[3], -3e38f);

  c = RandomCase(6);
  c.tau = 1e-30f;  // only the nearest counts
  ASSERT_TRUE(OutputVoter().Vote(c.View(), c.found, 0.5, c.logits));
  for (const float z : c.logits) EXPECT_TRUE(std::isfinite(z));
}

// Rows through the router: weights, gates, shapes.
class RouterWithOutputMemory : public ::testing::Test {
 protected:
  static constexpr uint32_t kVocab = testing::kVocabulary;

  OwnedTables Owned(bool gate) const {
    OwnedTables owned = testing::RandomOwnedTables(1, {.gate = gate});
    Random random(9);
    owned.output = {.enabled = true, .vocabulary = kVocab, .k = 5, .tau = 0.1f, .lambda = 0.5f};
    owned.output.keys = testing::RandomKeys(random, 20);
    for (int i = 0; i < 20; ++i) owned.output.next_tokens.push_back(static_cast<int32_t>(random.Below(kVocab)));
    return owned;
  }

  // Begins a step of `count` rows for the slots, routes the gate's layer, and returns the step.
  Step Begin(Router& router, const std::vector<uint32_t>& slots, float shift = 0) const {
    std::vector<uint32_t> positions(slots.size(), 0), seen(8, 0);
    for (size_t i = 0; i < slots.size(); ++i) positions[i] = seen[slots[i]]++;
    auto step = router.BeginStep(slots, positions, {});
    EXPECT_TRUE(step.ok());
    Random random(3);
    std::vector<float> hidden = random.Floats(slots.size() * testing::kHidden, -1 + shift, 1 + shift);
    std::vector<float> logits = random.Floats(slots.size() * testing::kExperts, -1, 1);
    const Status routed = router.Route(step.value(), 0, hidden, logits);
    EXPECT_TRUE(routed.ok()) << routed.error().message;
    return std::move(step).value();
  }

  std::vector<float> hidden_ = Random(5).Floats(6 * testing::kHidden, -1, 1);
  std::vector<float> logits_ = Random(6).Floats(6 * kVocab, -3, 3);
};

TEST_F(RouterWithOutputMemory, WeighsEachRowByLambdaStrengthAndGate) {
  const auto tables = MakeTables(Owned(true));
  Router router;
  const uint32_t slot = router.AddSlot({.tables = tables, .session = nullptr, .strength = 0.5f});
  Step step = Begin(router, std::vector<uint32_t>(6, slot));
  step.gate = {0, 0.25f, 0.5f, 1, 0, 1};
  std::vector<float> logits = logits_;
  ASSERT_TRUE(router.VoteOutput(step, {}, hidden_, logits).ok());
  for (size_t row = 0; row < 6; ++row) {
    std::vector<float> expected(logits_.begin() + row * kVocab, logits_.begin() + (row + 1) * kVocab);
    std::vector<Neighbour> found(5);
    SearchExact(tables->output.keys, std::span(hidden_).subspan(row * testing::kHidden, testing::kHidden), 5, found);
    OutputVoter().Vote(tables->output, found, 0.5 * 0.5 * step.gate[row], expected);
    const auto got = std::span(logits).subspan(row * kVocab, kVocab);
    EXPECT_TRUE(SameBits(got, expected)) << row;
    EXPECT_EQ(SameBits(got, std::span(logits_).subspan(row * kVocab, kVocab)), step.gate[row] == 0) << row;
  }
  EXPECT_EQ(router.counters().voted, 4u);
}

TEST_F(RouterWithOutputMemory, ARowGivesTheSameBitsAloneAndInABatch) {
  const auto tables = MakeTables(Owned(false));
  Router router;
  const uint32_t a = router.AddSlot({.tables = tables, .session = nullptr});
  const uint32_t b = router.AddSlot({.tables = tables, .session = nullptr});
  const Step step = Begin(router, {a, b, 0, a, b, b});
  std::vector<float> all = logits_;
  ASSERT_TRUE(router.VoteOutput(step, {}, hidden_, all).ok());
  EXPECT_TRUE(SameBits(std::span(all).subspan(2 * kVocab, kVocab), std::span(logits_).subspan(2 * kVocab, kVocab)))
      << "slot 0 is the frozen model";
  for (const uint32_t row : {0u, 1u, 3u, 5u}) {
    std::vector<float> one(logits_.begin() + row * kVocab, logits_.begin() + (row + 1) * kVocab);
    const auto hidden = std::span(hidden_).subspan(row * testing::kHidden, testing::kHidden);
    ASSERT_TRUE(router.VoteOutput(step, std::vector{row}, hidden, one).ok());
    EXPECT_TRUE(SameBits(one, std::span(all).subspan(row * kVocab, kVocab))) << row;
  }
}

TEST_F(RouterWithOutputMemory, NothingIsWrittenByShadowOffSwitchOrWithoutOutputMemory) {
  const auto with = MakeTables(Owned(false));
  OwnedTables owned = Owned(false);
  owned.output = {};
  const auto without = MakeTables(std::move(owned));
  for (int way = 0; way < 4; ++way) {
    Router router;
    Binding binding{.tables = way == 2 ? without : with, .session = nullptr};
    binding.shadow = way == 0;
    if (way == 3) binding.strength = 0;
    const Step step = Begin(router, std::vector<uint32_t>(6, router.AddSlot(binding)));
    if (way == 1) router.SetKillSwitch(true);
    std::vector<float> logits = logits_;
    ASSERT_TRUE(router.VoteOutput(step, {}, hidden_, logits).ok());
    EXPECT_TRUE(SameBits(logits, logits_)) << way;
  }
}

TEST_F(RouterWithOutputMemory, ANonFiniteRowIsLeftAloneAndCounted) {
  Router router;
  const uint32_t slot = router.AddSlot({.tables = MakeTables(Owned(false)), .session = nullptr});
  const Step step = Begin(router, std::vector<uint32_t>(6, slot));
  hidden_[3] = testing::kNan;                                // row 0
  logits_[kVocab] = std::numeric_limits<float>::infinity();  // row 1
  std::vector<float> logits = logits_;
  ASSERT_TRUE(router.VoteOutput(step, {}, hidden_, logits).ok());
  EXPECT_TRUE(SameBits(std::span(logits).first(2 * kVocab), std::span(logits_).first(2 * kVocab)));
  EXPECT_EQ(router.counters().voted, 4u);
  EXPECT_EQ(router.counters().non_finite, 2u);
}

TEST_F(RouterWithOutputMemory, WrongCallsSaySoAndChangeNothing) {
  Router router;
  const uint32_t slot = router.AddSlot({.tables = MakeTables(Owned(true)), .session = nullptr});
  const std::vector<uint32_t> slots(6, slot);
  const Step step = Begin(router, slots);
  std::vector<float> logits = logits_;
  const auto message = [&](const Step& s, const std::vector<uint32_t>& rows, std::span<const float> hidden,
                           std::span<float> out) {
    const Status status = router.VoteOutput(s, rows, hidden, out);
    return status.ok() ? std::string() : status.error().message;
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(message(step, {2, 1}, std::span(hidden_).first(24), std::span(logits).first(14)), HasSubstr("ascending"));
  EXPECT_THAT(message(step, {6}, std::span(hidden_).first(12), std::span(logits).first(7)), HasSubstr("row 6"));
  EXPECT_THAT(message(step, {}, hidden_, std::span(logits).first(36)), HasSubstr("vocabulary has 7 tokens"));
  EXPECT_THAT(message(step, {}, std::span(hidden_).first(60), logits), HasSubstr("output: hidden size is 10"));
  EXPECT_THAT(message(Step{}, {}, hidden_, logits), HasSubstr("stale"));
  Step outside = Begin(router, slots);
  outside.gate[4] = 1.5f;
  EXPECT_THAT(message(outside, {}, hidden_, logits), HasSubstr("row 4 has the gate 1.5"));
  EXPECT_TRUE(SameBits(logits, logits_));
}

}  // namespace
}  // namespace pointsman
