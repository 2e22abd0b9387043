// What is bound to a sequence changes that sequence, exactly as the router says, and nothing else.
#include "hosts/llamacpp/llama_routing.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "hosts/llamacpp/graph_tensor.h"
#include "hosts/llamacpp/test_routing.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures

TEST_F(LlamaRoutingTest, WhatMayNotChangeLogitsKeepsTheirBits) {
  Context plain = Plain();
  const std::vector<float> expected = Feed(plain, kText);
  const auto tables = RandomTables(2);
  const std::map<std::string, Binding> bindings = {
      {"nothing", {}},
      {"an empty memory", {.tables = RandomTables(2, {.layers = {}}), .session = nullptr}},
      {"strength 0", {.tables = tables, .session = nullptr, .strength = 0}},
      {"shadow", {.tables = tables, .session = RandomSession(3, kModelLayers), .strength = 1, .shadow = true}},
  };
  for (const auto& [name, binding] : bindings) {
    Context host = Attached();
    ASSERT_TRUE(host.routing->Bind(0, binding).ok());
    EXPECT_TRUE(SameBits(Feed(host, kText), expected)) << name;
    EXPECT_EQ(host.routing->counters().layer_calls, kModelLayers) << name;
  }
  Context unbound = Attached();
  EXPECT_TRUE(SameBits(Feed(unbound, kText), expected));
  EXPECT_EQ(unbound.routing->counters().layer_calls, 0u) << "nothing stops for an unbound batch";
  Context off = Attached();
  ASSERT_TRUE(off.routing->Bind(0, {.tables = tables, .session = nullptr}).ok());
  off.routing->SetKillSwitch(true);
  EXPECT_TRUE(SameBits(Feed(off, kText), expected));
}

// Reads tensors by name behind the routing's own callback.
struct Spy {
  ggml_backend_sched_eval_callback inner = nullptr;
  void* inner_data = nullptr;
  std::map<std::string, std::vector<float>> seen;

  static bool Callback(ggml_tensor* tensor, bool ask, void* self) {
    Spy& spy = *static_cast<Spy*>(self);
    const std::string name = tensor->name;
    const bool mine =
        name.starts_with("ffn_norm-") || name.starts_with("ffn_moe_logits-") || name.starts_with("ffn_moe_probs-");
    const bool theirs = spy.inner != nullptr && spy.inner(tensor, ask, spy.inner_data);
    if (ask) return mine || theirs;
    if (mine) {
      TensorFloats values(tensor);
      spy.seen[name].assign(values.values().begin(), values.values().end());
    }
    return true;
  }
};

TEST_F(LlamaRoutingTest, TheRouterGetsTheRoutersInputAndItsResultIsUsed) {
  const auto tables = RandomTables(5, {.layers = {0, 1, 2, 3}, .gate = false});
  Spy spy;
  Context host;
  host.routing = LlamaRouting::Create(model_).value();
  llama_context_params params = Params();
  ASSERT_TRUE(host.routing->Install(params).ok());
  spy.inner = std::exchange(params.cb_eval, &Spy::Callback);
  spy.inner_data = std::exchange(params.cb_eval_user_data, &spy);
  host.context = MakeContext(model_, params).value();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = tables, .session = nullptr}).ok());
  Feed(host, kText);

  const std::vector<uint32_t> slots(kText.size(), 1);
  std::vector<uint32_t> positions(kText.size());
  std::iota(positions.begin(), positions.end(), 0u);
  for (int layer = 0; layer < static_cast<int>(kModelLayers); ++layer) {
    const std::string number = std::to_string(layer);
    const std::vector<float>& hidden = spy.seen["ffn_norm-" + number];
    ASSERT_EQ(hidden.size(), kText.size() * kHidden);
    // What the frozen router gives for the hidden states of this very pass, by the file's weights.
    const std::vector<float> frozen = FrozenLogits(hidden, layer);
    std::vector<float> expected = frozen;
    Router router;
    ASSERT_EQ(router.AddSlot({.tables = tables, .session = nullptr}), 1u);
    auto step = router.BeginStep(slots, positions, kText);
    ASSERT_TRUE(router.Route(step.value(), layer, hidden, expected).ok());
    EXPECT_GT(Largest(expected, frozen), 0.1f) << "the memory says something";
    EXPECT_LT(Largest(spy.seen["ffn_moe_logits-" + number], expected), 1e-5f);
    const std::vector<float>& probabilities = spy.seen["ffn_moe_probs-" + number];
    for (size_t row = 0; row < kText.size(); ++row) {
      double sum = 0;
      for (size_t e = 0; e < kExperts; ++e) sum += std::exp(double{expected[row * kExperts + e]});
      for (size_t e = 0; e < kExperts; ++e) {
        EXPECT_NEAR(probabilities[row * kExperts + e], std::exp(double{expected[row * kExperts + e]}) / sum, 1e-5);
      }
    }
  }
}

TEST_F(LlamaRoutingTest, ARecorderSeesEveryRowOfABoundSequence) {
  struct Rows {
    std::vector<float> hidden, before, after;
  };
  std::map<int32_t, Rows> seen;
  Context host = Attached(Params(/*micro_batch=*/7));
  host.routing->SetRecorder(
      [&](int32_t layer, std::span<const float> hidden, std::span<const float> before, std::span<const float> after) {
        Rows& rows = seen[layer];
        rows.hidden.insert(rows.hidden.end(), hidden.begin(), hidden.end());
        rows.before.insert(rows.before.end(), before.begin(), before.end());
        rows.after.insert(rows.after.end(), after.begin(), after.end());
      });
  Feed(host, kText);
  EXPECT_TRUE(seen.empty()) << "nothing is bound";
  llama_memory_clear(llama_get_memory(host.context.get()), true);
  const auto tables = RandomTables(5, {.layers = {0, 1, 3}, .gate = false});
  ASSERT_TRUE(host.routing->Bind(0, {.tables = tables, .session = nullptr}).ok());
  Feed(host, kText);

  ASSERT_EQ(seen.size(), kModelLayers);
  std::vector<uint32_t> positions(kText.size());
  std::iota(positions.begin(), positions.end(), 0u);
  Router router;
  const std::vector<uint32_t> slots(kText.size(), router.AddSlot({.tables = tables, .session = nullptr}));
  auto step = router.BeginStep(slots, positions, kText);
  for (auto& [layer, rows] : seen) {
    ASSERT_EQ(rows.before.size(), kText.size() * kExperts);
    EXPECT_LT(Largest(rows.before, FrozenLogits(rows.hidden, layer)), 1e-5f);
    ASSERT_TRUE(router.Route(step.value(), layer, rows.hidden, rows.before).ok());
    EXPECT_TRUE(SameBits(rows.after, rows.before)) << layer;
  }
}

TEST_F(LlamaRoutingTest, HowABatchIsCutDoesNotMatter) {
  const Binding binding{.tables = RandomTables(2), .session = RandomSession(3, kModelLayers)};
  Context whole = Attached();
  ASSERT_TRUE(whole.routing->Bind(0, binding).ok());
  const std::vector<float> expected = Feed(whole, kText);
  Context plain = Plain();
  EXPECT_GT(Largest(Feed(plain, kText), expected), 100 * kTolerance);

  Context micro = Attached(Params(/*micro_batch=*/3));
  ASSERT_TRUE(micro.routing->Bind(0, binding).ok());
  EXPECT_LT(Largest(Feed(micro, kText), expected), kTolerance);
  EXPECT_EQ(micro.routing->counters().layer_calls, 7 * kModelLayers);
  EXPECT_EQ(micro.routing->GateHistory(0), whole.routing->GateHistory(0));

  Context steps = Attached();
  ASSERT_TRUE(steps.routing->Bind(0, binding).ok());
  for (size_t i = 0; i < kText.size(); ++i) {
    const auto row = Feed(steps, std::span(kText).subspan(i, 1), static_cast<uint32_t>(i));
    EXPECT_LT(Largest(row, std::span(expected).subspan(i * kVocabulary, kVocabulary)), kTolerance) << i;
  }
}

TEST_F(LlamaRoutingTest, TheLastLayerComputesOutputsAlone) {
  const Binding binding{.tables = RandomTables(2), .session = RandomSession(3, kModelLayers)};
  Context all = Attached();
  ASSERT_TRUE(all.routing->Bind(0, binding).ok());
  const std::vector<float> expected = Feed(all, kText);
  for (const uint32_t micro_batch : {64u, 6u}) {  // with 6, three micro-batches have no output at all
    Context last = Attached(Params(micro_batch));
    ASSERT_TRUE(last.routing->Bind(0, binding).ok());
    const auto row = Feed(last, kText, 0, 0, /*all=*/false);
    EXPECT_LT(Largest(row, std::span(expected).last(kVocabulary)), kTolerance);
    // Layer 2 has no memory, but the session's vector.
    EXPECT_EQ(last.routing->router_counters().rows, (kModelLayers - 1) * kText.size() + 1);
  }
}

TEST_F(LlamaRoutingTest, AnOutputMemoryVotes) {
  Random random(9);
  OwnedTables owned;
  owned.output = {.enabled = true, .vocabulary = kVocabulary, .k = 4, .tau = 0.1f, .lambda = 0.5f};
  owned.output.keys = RandomKeys(random, 30);
  for (int i = 0; i < 30; ++i) owned.output.next_tokens.push_back(static_cast<int32_t>(random.Below(kVocabulary)));
  const auto tables = MakeTables(std::move(owned));

  llama_context_params params = Params();
  params.embeddings = true;
  Context plain = Plain(params);
  std::vector<float> expected = Feed(plain, kText);
  const std::vector<float> frozen = expected;
  std::vector<float> hidden;
  for (int32_t row = 0; row < static_cast<int32_t>(kText.size()); ++row) {
    const float* values = llama_get_embeddings_ith(plain.context.get(), row);
    hidden.insert(hidden.end(), values, values + kHidden);
  }
  Router router;
  const std::vector<uint32_t> slots(kText.size(), router.AddSlot({.tables = tables, .session = nullptr}));
  std::vector<uint32_t> positions(kText.size());
  std::iota(positions.begin(), positions.end(), 0u);
  const auto step = router.BeginStep(slots, positions, kText);
  ASSERT_TRUE(router.VoteOutput(step.value(), {}, hidden, expected).ok());

  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = tables, .session = nullptr}).ok());
  const std::vector<float> voted = Feed(host, kText);
  EXPECT_LT(Largest(voted, expected), kTolerance);
  EXPECT_GT(Largest(voted, frozen), 100 * kTolerance);
  Context last = Attached();
  ASSERT_TRUE(last.routing->Bind(0, {.tables = tables, .session = nullptr}).ok());
  EXPECT_LT(Largest(Feed(last, kText, 0, 0, /*all=*/false), std::span(expected).last(kVocabulary)), kTolerance);
}

}  // namespace
}  // namespace pointsman
