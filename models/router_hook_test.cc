#include "models/router_hook.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "models/model.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using testing::GateState;
using testing::RandomTables;

// "tiny": random weights written by the test; "reference": the shipped model, or the one that POINTSMAN_REFERENCE_MODEL
// names, where there is one.
std::filesystem::path ReferenceModel() {
  const char* named = std::getenv("POINTSMAN_REFERENCE_MODEL");
  return named ? std::filesystem::path(named) : std::filesystem::path(POINTSMAN_SOURCE_DIR) / "models/reference";
}

class RoutedModel : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::filesystem::path path = ReferenceModel();
    if (std::string(GetParam()) == "tiny") {
      path = directory_.path();
      testing::WriteTinyModel(path, {});
    } else if (!std::filesystem::exists(path / "config.json")) {
      GTEST_SKIP() << path << " is not in this checkout";
    }
    auto loaded = MoeModel::Load(path);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::move(loaded).value();
    at::manual_seed(11);
    ids_ = at::randint(0, model_->config().vocab_size, {2, 200}, at::kLong);
  }

  std::shared_ptr<const RoutingTables> Tables(GateState gate) const {
    const MoeConfig& c = model_->config();
    return RandomTables(c.hidden_size, c.num_experts, c.num_layers, gate);
  }

  // The same tables with an output memory whose 30 entries have random keys and next tokens.
  std::shared_ptr<const RoutingTables> WithOutput(std::shared_ptr<const RoutingTables> routing) const {
    const auto hidden = static_cast<uint32_t>(model_->config().hidden_size);
    OwnedTables owned;
    owned.output = {.enabled = true,
                    .vocabulary = static_cast<uint32_t>(model_->config().vocab_size),
                    .k = 8,
                    .tau = 0.1f,
                    .lambda = 0.5f,
                    .keys = {},
                    .next_tokens = {},
                    .references = {}};
    owned.output.keys.hidden = owned.output.keys.dim = hidden;
    const at::Tensor keys = at::randn({30, hidden});
    const at::Tensor unit = (keys / keys.norm(2, {-1}, true)).contiguous();
    owned.output.keys.SetKeys({unit.const_data_ptr<float>(), unit.const_data_ptr<float>() + unit.numel()});
    for (int32_t i = 0; i < 30; ++i) owned.output.next_tokens.push_back(i * 7);
    const auto output = MakeTables(std::move(owned));
    auto both = std::make_shared<RoutingTables>(*routing);
    both->output = output->output;
    both->storage =
        std::make_shared<std::pair<std::shared_ptr<const RoutingTables>, std::shared_ptr<const RoutingTables>>>(routing,
                                                                                                                output);
    return both;
  }

  // Logits of one sequence under a fresh router with this binding.
  at::Tensor Routed(const Binding& binding) const { return RoutedText(binding, Sequence()); }

  at::Tensor RoutedText(const Binding& binding, const at::Tensor& ids) const {
    Router router;
    const uint32_t slot = router.AddSlot(binding);
    RouterHook hook(router);
    const at::Tensor logits = model_->Forward(ids, {.hook = &hook, .slots = {slot}});
    EXPECT_TRUE(hook.status().ok()) << hook.status().error().message;
    return logits;
  }

  at::Tensor Sequence() const { return ids_.narrow(0, 0, 1); }

  const at::NoGradGuard no_grad_;
  testing::TemporaryDirectory directory_;
  std::unique_ptr<MoeModel> model_;
  at::Tensor ids_;
};

INSTANTIATE_TEST_SUITE_P(Models, RoutedModel, ::testing::Values("tiny", "reference"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(RoutedModel, IsBitIdenticalWhereNothingActs) {
  const at::Tensor frozen = model_->Forward(Sequence(), {});
  EXPECT_TRUE(at::equal(Routed({}), frozen)) << "no memory";
  EXPECT_TRUE(at::equal(Routed({.tables = MakeTables({}), .session = nullptr}), frozen)) << "an empty memory";
  EXPECT_TRUE(at::equal(Routed({.tables = Tables(GateState::kOff), .session = nullptr, .strength = 0}), frozen))
      << "strength 0";
  EXPECT_TRUE(at::equal(Routed({.tables = Tables(GateState::kShut), .session = nullptr}), frozen)) << "gate shut";
  EXPECT_TRUE(at::equal(Routed({.tables = Tables(GateState::kOff), .session = nullptr, .shadow = true}), frozen))
      << "shadow";
}

TEST_P(RoutedModel, AnOutputMemoryBehindAShutGateChangesNoBit) {
  const at::Tensor frozen = model_->Forward(Sequence(), {});
  const auto shut = WithOutput(Tables(GateState::kShut)), open = WithOutput(Tables(GateState::kOff));
  EXPECT_TRUE(at::equal(Routed({.tables = shut, .session = nullptr}), frozen)) << "gate shut";
  EXPECT_TRUE(at::equal(Routed({.tables = open, .session = nullptr, .strength = 0}), frozen)) << "strength 0";
  EXPECT_TRUE(at::equal(Routed({.tables = open, .session = nullptr, .shadow = true}), frozen)) << "shadow";
  EXPECT_FALSE(at::equal(Routed({.tables = open, .session = nullptr}), frozen));
}

TEST_P(RoutedModel, AnOutputMemoryRaisesWhatItsNeighboursSaid) {
  const Binding routing{.tables = Tables(GateState::kHalfOpen), .session = nullptr};
  const Binding both{.tables = WithOutput(routing.tables), .session = nullptr};
  const at::Tensor before = Routed(routing).softmax(-1), after = Routed(both).softmax(-1);
  std::vector<int64_t> voted;
  for (int64_t i = 0; i < 30; ++i) voted.push_back(i * 7);
  const at::Tensor tokens = at::tensor(voted);
  const at::Tensor gained = after.index_select(2, tokens).sum(-1) - before.index_select(2, tokens).sum(-1);
  EXPECT_GT(gained.min().item<float>(), 0);
}

TEST_P(RoutedModel, AnOutputMemoryActsOnTheLastPositionAlone) {
  const Binding binding{.tables = WithOutput(Tables(GateState::kHalfOpen)), .session = nullptr};
  Router router;
  RouterHook hook(router);
  const std::vector<uint32_t> first{router.AddSlot(binding), router.AddSlot(binding)};
  const std::vector<uint32_t> second{router.AddSlot(binding), router.AddSlot(binding)};
  const at::Tensor all = model_->Forward(ids_, {.hook = &hook, .slots = first});
  const at::Tensor last = model_->Forward(ids_, {.hook = &hook, .slots = second, .cache = nullptr, .last_only = true});
  ASSERT_TRUE(hook.status().ok()) << hook.status().error().message;
  EXPECT_EQ(router.counters().voted, 402u);  // 2 x 200 rows, then 2
  EXPECT_LT((all.narrow(1, 199, 1) - last).abs().max().item<float>(), 1e-4);
}

TEST_P(RoutedModel, ChangesWhereTheMemoryActs) {
  const at::Tensor frozen = model_->Forward(Sequence(), {});
  const at::Tensor routed = Routed({.tables = Tables(GateState::kOff), .session = nullptr});
  EXPECT_GT((routed - frozen).abs().max().item<float>(), 1e-2);
  EXPECT_TRUE(at::equal(routed, Routed({.tables = Tables(GateState::kOff), .session = nullptr}))) << "not repeatable";
}

TEST_P(RoutedModel, PrefillAndDecodeAgreeInGateAndLogits) {
  const Binding binding{.tables = WithOutput(Tables(GateState::kHalfOpen)), .session = nullptr};
  const int64_t length = 80;
  const at::Tensor ids = Sequence().narrow(1, 0, length);
  Router router;
  RouterHook hook(router);
  const uint32_t prefilled = router.AddSlot(binding), decoded = router.AddSlot(binding);
  const at::Tensor whole = model_->Forward(ids, {.hook = &hook, .slots = {prefilled}});
  KvCache cache = model_->NewCache(1);
  for (int64_t t = 0; t < length; ++t) {
    const at::Tensor step = model_->Forward(ids.narrow(1, t, 1), {.hook = &hook, .slots = {decoded}, .cache = &cache});
    EXPECT_LT((step - whole.narrow(1, t, 1)).abs().max().item<float>(), 1e-4) << "position " << t;
  }
  ASSERT_TRUE(hook.status().ok()) << hook.status().error().message;
  const std::vector<float> a = router.GateHistory(prefilled), b = router.GateHistory(decoded);
  ASSERT_EQ(a.size(), static_cast<size_t>(length));
  ASSERT_EQ(b.size(), a.size());
  for (size_t t = 0; t < a.size(); ++t) EXPECT_NEAR(a[t], b[t], 1e-4);
  EXPECT_GT(a.back(), 0.05f);
  EXPECT_LT(a.back(), 0.95f);
}

TEST_P(RoutedModel, SequencesOfABatchKeepTheirOwnMemory) {
  Router router;
  RouterHook hook(router);
  const uint32_t bound = router.AddSlot({.tables = Tables(GateState::kHalfOpen), .session = nullptr});
  const at::Tensor frozen = model_->Forward(ids_, {});
  const at::Tensor both = model_->Forward(ids_, {.hook = &hook, .slots = {0, bound}});
  EXPECT_LT((both[0] - frozen[0]).abs().max().item<float>(), 1e-4);
  const at::Tensor alone = model_->Forward(ids_.narrow(0, 1, 1), {.hook = &hook, .slots = {bound}});
  EXPECT_LT((both[1] - alone[0]).abs().max().item<float>(), 1e-4);
  EXPECT_GT((both[1] - frozen[1]).abs().max().item<float>(), 1e-2);
  EXPECT_TRUE(hook.status().ok());
}

TEST_P(RoutedModel, SequencesOfARaggedPassKeepTheirOwnMemory) {
  const Binding routing{.tables = WithOutput(Tables(GateState::kHalfOpen)), .session = nullptr};
  const Binding always{.tables = Tables(GateState::kOff), .session = nullptr, .strength = 0.5f};
  Router router;
  RouterHook hook(router);
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < 60; ++t) tokens.push_back(static_cast<int32_t>(ids_[0][t].item<int64_t>()));
  std::vector<KvCache> caches;
  for (int i = 0; i < 3; ++i) caches.push_back(model_->NewCache(1));
  const std::vector<uint32_t> slots{router.AddSlot(routing), 0, router.AddSlot(always)};
  const std::vector<std::vector<size_t>> chunks{{20, 1, 1}, {1, 30, 1}, {9, 9, 9}};  // of each sequence, by pass
  at::Tensor logits;
  for (size_t pass = 0; pass < 3; ++pass) {
    std::vector<MoeModel::RowSegment> segments;
    for (size_t i = 0; i < 3; ++i) {
      segments.push_back({.tokens = std::span(tokens).subspan(caches[i].length, chunks[i][pass]),
                          .cache = &caches[i],
                          .slot = slots[i],
                          .wants_logits = i != 2 || pass == 2});
    }
    logits = model_->ForwardRows(segments, &hook);
    ASSERT_TRUE(hook.status().ok()) << hook.status().error().message;
  }
  EXPECT_EQ(router.counters().voted, 3u) << "one row a pass had an output memory and was asked for";
  const Binding bindings[] = {routing, {}, always};
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t length = caches[i].length;
    const at::Tensor alone = RoutedText(bindings[i], Sequence().narrow(1, 0, length))[0][length - 1];
    EXPECT_LT((logits[i] - alone).abs().max().item<float>(), 1e-4) << i;
    const at::Tensor frozen = model_->Forward(Sequence().narrow(1, 0, length), {})[0][length - 1];
    const float moved = (logits[i] - frozen).abs().max().item<float>();
    EXPECT_TRUE(i == 1 ? moved < 1e-4 : moved > 1e-3) << i << " moved by " << moved;
  }
}

TEST_P(RoutedModel, TracesRowsOfBoundSlots) {
  Router router;
  RouterHook hook(router);
  const uint32_t slot = router.AddSlot({.tables = Tables(GateState::kOff), .session = nullptr});
  hook.CollectTrace(true);
  model_->Forward(ids_.narrow(1, 0, 3), {.hook = &hook, .slots = {0, slot}});
  const std::vector<RowTrace> traces = hook.TakeTrace();
  ASSERT_EQ(traces.size(), 3u * model_->config().num_layers);
  EXPECT_EQ(traces[0].row, 3u);
  EXPECT_TRUE(traces[0].written);
  EXPECT_NE(traces[0].logits_before, traces[0].logits_after);
  EXPECT_TRUE(hook.TakeTrace().empty());
}

TEST_P(RoutedModel, KeepsTheLogitsAndTheFirstErrorWhenTheTablesDoNotFit) {
  Router router;
  RouterHook hook(router);
  const MoeConfig& c = model_->config();
  const uint32_t slot = router.AddSlot(
      {.tables = RandomTables(c.hidden_size, c.num_experts + 1, c.num_layers, GateState::kOff), .session = nullptr});
  const at::Tensor logits = model_->Forward(Sequence(), {.hook = &hook, .slots = {slot}});
  EXPECT_TRUE(at::equal(logits, model_->Forward(Sequence(), {})));
  ASSERT_FALSE(hook.status().ok());
  EXPECT_EQ(hook.status().error().code, ErrorCode::kInvalidArgument);
  hook.ClearStatus();
  EXPECT_TRUE(hook.status().ok());
}

TEST_P(RoutedModel, RefusesToWriteUnderGradients) {
  Router router;
  RouterHook hook(router);
  const uint32_t slot = router.AddSlot({.tables = Tables(GateState::kOff), .session = nullptr});
  const at::AutoGradMode with_grad(true);
  const auto clone = model_->CloneWithTrainableWeights();
  clone->Forward(Sequence().narrow(1, 0, 4), {.hook = &hook, .slots = {slot}});
  ASSERT_FALSE(hook.status().ok());
  EXPECT_THAT(hook.status().error().message, ::testing::HasSubstr("gradients"));
}

}  // namespace
}  // namespace pointsman
