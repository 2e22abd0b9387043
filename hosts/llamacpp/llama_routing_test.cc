// A random OLMoE in llama.cpp: what is bound to a sequence changes that sequence, exactly as the router says, and
// nothing else.
#include "hosts/llamacpp/llama_routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <numeric>

#include "hosts/llamacpp/graph_tensor.h"
#include "hosts/llamacpp/llama_handles.h"
#include "hosts/llamacpp/test_gguf.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;

constexpr float kTolerance = 2e-4f;  // batches of different sizes are multiplied by different kernels
const std::vector<int32_t> kText = {1, 4, 2, 2, 6, 0, 3, 5, 1, 1, 4, 0, 2, 6, 3, 3, 5, 4, 1, 0};

std::filesystem::path ModelFile(const GgufOptions& options = {}) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("pointsman_" + std::to_string(getpid()) + options.architecture + ".gguf");
  GgufWriter(options).Write(path);
  return path;
}

struct Context {
  std::unique_ptr<LlamaRouting> routing;  // null: plain
  LlamaContext context{nullptr, &llama_free};
};

class LlamaRoutingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    QuietLlama();
    const auto path = ModelFile();
    model_ = LoadLlama(path).value().release();
    ReadRouters(path);
    std::filesystem::remove(path);
    ASSERT_NE(model_, nullptr);
  }
  static void TearDownTestSuite() { llama_model_free(model_); }

  static void ReadRouters(const std::filesystem::path& path) {
    ggml_context* tensors = nullptr;
    gguf_context* file = gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors});
    for (uint32_t layer = 0; layer < kModelLayers; ++layer) {
      const std::string name = "blk." + std::to_string(layer) + ".ffn_gate_inp.weight";
      const float* values = ggml_get_data_f32(ggml_get_tensor(tensors, name.c_str()));
      routers_.emplace_back(values, values + kExperts * kHidden);
    }
    gguf_free(file);
    ggml_free(tensors);
  }
  // [T, E] of hidden [T, H].
  static std::vector<float> FrozenLogits(const std::vector<float>& hidden, int layer) {
    std::vector<float> logits(hidden.size() / kHidden * kExperts);
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto row = hidden.begin() + static_cast<ptrdiff_t>(i / kExperts * kHidden);
      logits[i] = std::inner_product(row, row + kHidden, routers_[layer].begin() + i % kExperts * kHidden, 0.0f);
    }
    return logits;
  }

  static llama_context_params Params(uint32_t micro_batch = 64) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_batch = 64;
    params.n_ubatch = micro_batch;
    params.n_seq_max = 4;
    params.kv_unified = true;
    params.n_threads = params.n_threads_batch = 1;
    return params;
  }
  static Context Plain(llama_context_params params = Params()) {
    return {nullptr, MakeContext(model_, params).value()};
  }
  static Context Attached(llama_context_params params = Params()) {
    auto routing = LlamaRouting::Create(model_).value();
    EXPECT_TRUE(routing->Install(params).ok());
    auto context = MakeContext(model_, params).value();
    return {std::move(routing), std::move(context)};
  }

  // Logits of the batch's output rows, one after another.
  static std::vector<float> Feed(Context& host, std::span<const int32_t> tokens, uint32_t first = 0,
                                 llama_seq_id sequence = 0, bool all = true) {
    const SequenceBatch batch(tokens, first, all, sequence);
    return Feed(host, batch.get());
  }
  static std::vector<float> Feed(Context& host, const llama_batch& batch) {
    if (host.routing == nullptr) {
      EXPECT_EQ(llama_decode(host.context.get(), batch), 0);
    } else {
      const auto code = host.routing->Decode(host.context.get(), batch);
      EXPECT_TRUE(code.ok()) << code.error().message;
      EXPECT_EQ(code.ok() ? code.value() : -1, 0);
    }
    std::vector<float> logits;
    for (int32_t row = 0; row < batch.n_tokens; ++row) {
      if (batch.logits[row] == 0) continue;
      const float* values = llama_get_logits_ith(host.context.get(), row);
      logits.insert(logits.end(), values, values + kVocabulary);
    }
    return logits;
  }
  static std::string DecodeError(Context& host, const llama_batch& batch) {
    const auto code = host.routing->Decode(host.context.get(), batch);
    return code.ok() ? "accepted" : code.error().message;
  }
  static float Largest(std::span<const float> a, std::span<const float> b) {
    EXPECT_EQ(a.size(), b.size());
    float largest = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
    return largest;
  }

  static llama_model* model_;
  static std::vector<std::vector<float>> routers_;  // by layer, [E, H]
};

llama_model* LlamaRoutingTest::model_ = nullptr;
std::vector<std::vector<float>> LlamaRoutingTest::routers_;

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

// Two sequences in turns: rows 0, 2, 4, .. and 1, 3, 5, ...
llama_batch Interleaved(std::span<const int32_t> tokens, uint32_t first) {
  llama_batch batch = llama_batch_init(static_cast<int32_t>(2 * tokens.size()), 0, 1);
  batch.n_tokens = static_cast<int32_t>(2 * tokens.size());
  for (int32_t row = 0; row < batch.n_tokens; ++row) {
    batch.token[row] = tokens[row / 2];
    batch.pos[row] = static_cast<llama_pos>(first) + row / 2;
    batch.n_seq_id[row] = 1;
    batch.seq_id[row][0] = row % 2;
    batch.logits[row] = 1;
  }
  return batch;
}

TEST_F(LlamaRoutingTest, EachSequenceHasItsOwnBinding) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context plain = Plain();
  const std::vector<float> frozen = Feed(plain, kText);
  Context alone = Attached();
  ASSERT_TRUE(alone.routing->Bind(0, binding).ok());
  const std::vector<float> routed = Feed(alone, kText);

  Context both = Attached(Params(/*micro_batch=*/7));
  ASSERT_TRUE(both.routing->Bind(1, binding).ok());
  const llama_batch batch = Interleaved(kText, 0);
  const std::vector<float> mixed = Feed(both, batch);
  llama_batch_free(batch);
  for (size_t i = 0; i < kText.size(); ++i) {
    const auto row = [&](const std::vector<float>& all, size_t at) {
      return std::span(all).subspan(at * kVocabulary, kVocabulary);
    };
    EXPECT_LT(Largest(row(mixed, 2 * i), row(frozen, i)), kTolerance) << i;
    EXPECT_LT(Largest(row(mixed, 2 * i + 1), row(routed, i)), kTolerance) << i;
  }
  EXPECT_EQ(both.routing->GateHistory(1), alone.routing->GateHistory(0));
}

TEST_F(LlamaRoutingTest, RewindingForgets) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, binding).ok());
  Feed(host, kText);
  llama_memory_seq_rm(llama_get_memory(host.context.get()), 0, 8, -1);
  const std::vector<int32_t> other = {6, 6, 1, 0, 2};
  const std::vector<float> after = Feed(host, other, 8);

  std::vector<int32_t> text(kText.begin(), kText.begin() + 8);
  text.insert(text.end(), other.begin(), other.end());
  Context fresh = Attached();
  ASSERT_TRUE(fresh.routing->Bind(0, binding).ok());
  const std::vector<float> expected = Feed(fresh, text);
  EXPECT_LT(Largest(after, std::span(expected).last(after.size())), kTolerance);
  EXPECT_EQ(host.routing->GateHistory(0), fresh.routing->GateHistory(0));
}

TEST_F(LlamaRoutingTest, ABindingInTheMiddleKnowsTheTextBefore) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context whole = Attached();
  ASSERT_TRUE(whole.routing->Bind(0, binding).ok());
  Feed(whole, kText);
  const std::vector<float> expected = whole.routing->GateHistory(0);
  ASSERT_THAT(expected, ::testing::Contains(::testing::Gt(0.0f)));

  const auto head = std::span(kText).first(12), tail = std::span(kText).subspan(12);
  Context late = Attached();
  Feed(late, head);
  ASSERT_TRUE(late.routing->Bind(0, binding).ok());
  Feed(late, tail, 12);
  EXPECT_EQ(late.routing->GateHistory(0), expected);

  Context copied = Attached();
  Feed(copied, head, 0, 2);
  llama_memory_seq_cp(llama_get_memory(copied.context.get()), 2, 3, -1, -1);
  copied.routing->CopySequence(2, 3);
  ASSERT_TRUE(copied.routing->Bind(3, binding).ok());
  Feed(copied, tail, 12, 3);
  EXPECT_EQ(copied.routing->GateHistory(3), expected);
}

TEST_F(LlamaRoutingTest, StrengthAndUnbindTakeEffect) {
  Context host = Attached();
  Context plain = Plain();
  const std::vector<float> expected = Feed(plain, kText);
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const auto again = [&] {
    llama_memory_clear(llama_get_memory(host.context.get()), true);
    return Feed(host, kText);
  };
  EXPECT_GT(Largest(again(), expected), 100 * kTolerance);
  host.routing->SetStrength(0, 0);
  EXPECT_TRUE(SameBits(again(), expected));
  host.routing->SetSession(0, RandomSession(4, kModelLayers));
  EXPECT_GT(Largest(again(), expected), 100 * kTolerance);
  host.routing->Unbind(0);
  EXPECT_TRUE(SameBits(again(), expected));
}

TEST_F(LlamaRoutingTest, PositionsAreFilledInAsLlamaDoes) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, binding).ok());
  for (const size_t start : {size_t{0}, size_t{9}}) {
    std::vector<int32_t> part(kText.begin() + static_cast<ptrdiff_t>(start),
                              start == 0 ? kText.begin() + 9 : kText.end());
    const auto code =
        host.routing->Decode(host.context.get(), llama_batch_get_one(part.data(), static_cast<int32_t>(part.size())));
    ASSERT_TRUE(code.ok()) << code.error().message;
  }
  Context whole = Attached();
  ASSERT_TRUE(whole.routing->Bind(0, binding).ok());
  Feed(whole, kText);
  EXPECT_EQ(host.routing->GateHistory(0), whole.routing->GateHistory(0));
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

TEST_F(LlamaRoutingTest, RefusesContextsThatItCannotServe) {
  auto routing = LlamaRouting::Create(model_).value();
  llama_context_params params = Params();
  params.kv_unified = false;
  EXPECT_THAT(routing->Install(params).error().message, HasSubstr("set kv_unified"));
  params.n_seq_max = 1;
  EXPECT_TRUE(routing->Install(params).ok());
  EXPECT_THAT(routing->Install(params).error().message, HasSubstr("another callback is installed"));

  const auto path = ModelFile({.architecture = "dbrx"});
  llama_model_params vocab_only = llama_model_default_params();
  vocab_only.vocab_only = true;
  const LlamaModel other(llama_model_load_from_file(path.c_str(), vocab_only), &llama_model_free);
  std::filesystem::remove(path);
  ASSERT_NE(other, nullptr);
  EXPECT_THAT(LlamaRouting::Create(other.get()).error().message, HasSubstr("architecture 'dbrx' was not tested"));
}

TEST_F(LlamaRoutingTest, RefusesMemoriesOfAnotherShape) {
  auto routing = LlamaRouting::Create(model_).value();
  const auto error = [&](Binding binding) { return routing->Bind(0, std::move(binding)).error().message; };
  EXPECT_THAT(error({.tables = RandomTables(2, {.layers = {0, 7}}), .session = nullptr}),
              HasSubstr("layer 7: the memory has it and the model has no router there"));
  OwnedTables narrow = RandomOwnedTables(2, {});
  narrow.layers[0].experts = 5;
  EXPECT_THAT(error({.tables = MakeTables(std::move(narrow)), .session = nullptr}),
              HasSubstr("10 experts, the memory has 5"));
  auto session = std::make_shared<SessionVectors>();
  session->by_layer = {std::vector<float>(3)};
  EXPECT_THAT(error({.tables = nullptr, .session = session}), HasSubstr("the session's vector has 3"));
}

TEST_F(LlamaRoutingTest, RefusesBatchesBeforeTheyAreComputed) {
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const llama_batch batch = Interleaved(std::span(kText).first(3), 0);
  batch.pos[2] = 5;
  EXPECT_THAT(DecodeError(host, batch), HasSubstr("row 2 of sequence 0 has the position 5, not 1"));
  batch.pos[2] = -1;
  EXPECT_THAT(DecodeError(host, batch), HasSubstr("positions start at 0"));
  llama_batch_free(batch);

  llama_batch shared = llama_batch_init(1, 0, 2);
  shared.n_tokens = 1;
  shared.token[0] = 1;
  shared.pos[0] = 0;
  shared.n_seq_id[0] = 2;
  shared.seq_id[0][0] = 1;
  shared.seq_id[0][1] = 0;
  EXPECT_THAT(DecodeError(host, shared), HasSubstr("then llama_memory_seq_cp and CopySequence"));
  llama_batch_free(shared);

  llama_batch embeddings = llama_batch_init(1, kHidden, 1);
  embeddings.n_tokens = 1;
  embeddings.pos[0] = 0;
  embeddings.n_seq_id[0] = 1;
  embeddings.seq_id[0][0] = 0;
  EXPECT_THAT(DecodeError(host, embeddings), HasSubstr("has an embedding and no token id"));
  llama_batch_free(embeddings);
  EXPECT_EQ(llama_memory_seq_pos_max(llama_get_memory(host.context.get()), 0), -1) << "nothing was computed";
}

TEST_F(LlamaRoutingTest, NoticesABatchThatWentPastIt) {
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const std::span<const int32_t> text(kText);
  const SequenceBatch head(text.first(4), 0, true), tail(text.subspan(4, 4), 4, true);
  ASSERT_EQ(llama_decode(host.context.get(), head.get()), 0);
  EXPECT_THAT(DecodeError(host, tail.get()), HasSubstr("was given to llama_decode while sequences were bound"));
}

TEST_F(LlamaRoutingTest, ACallbackThatIsNotInstalledIsAnError) {
  Context host = Plain();
  host.routing = LlamaRouting::Create(model_).value();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const SequenceBatch batch(kText, 0, true);
  EXPECT_THAT(DecodeError(host, batch.get()), HasSubstr("0 of 20 rows reached the callback"));
}

}  // namespace
}  // namespace pointsman
