// Requests for the engine's tests, what they got, and what each gets alone from Generate. Header-only; tests alone.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "adapt/online_rerouting.h"
#include "daemon/engine/completion.h"
#include "daemon/engine/engine.h"
#include "models/testing/tiny_model.h"

namespace pointsman::testing {

// What a request was told, and when it was over.
struct Told {
  std::vector<TokenOutput> outputs;
  std::optional<Result<CompletionTask::Done>> done;

  bool ok() const { return done && done->ok(); }
  const CompletionTask::Done& value() const { return done->value(); }
  std::string Streamed() const {
    std::string text;
    for (const TokenOutput& output : outputs) text += output.text;
    return text;
  }
};

// Fills a task's callbacks; the future is ready when on_done was called.
struct Listener {
  std::shared_ptr<Told> told = std::make_shared<Told>();
  std::shared_ptr<std::promise<void>> over = std::make_shared<std::promise<void>>();
  std::shared_future<void> ended = over->get_future().share();

  void Attach(CompletionTask& task) const {
    task.on_token = [told = told](const TokenOutput& output) {
      EXPECT_FALSE(told->done) << "a token after the end";
      told->outputs.push_back(output);
    };
    task.on_done = [told = told, over = over](Result<CompletionTask::Done> done) {
      EXPECT_FALSE(told->done) << "it ended twice";
      told->done = std::move(done);
      over->set_value();
    };
  }
  const Told& Wait() const {
    ended.wait();
    return *told;
  }
};

// Log probabilities of what a model's output layer gave for the last row of each pass, after routing.
class OutputRecorder : public RoutingHook {
 public:
  explicit OutputRecorder(RoutingHook& inner) : inner_(inner) {}
  void BeginStep(const StepInfo& step) override { inner_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    return inner_.Route(layer, hidden, logits);
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    at::Tensor after = inner_.Output(hidden, logits);
    last_ = after[after.size(0) - 1].log_softmax(-1);
    return after;
  }
  Status status() const override { return inner_.status(); }
  const at::Tensor& last() const { return last_; }

 private:
  RoutingHook& inner_;
  at::Tensor last_;
};

struct Alone {
  Generation generation;
  std::vector<std::string> pieces;   // of on_token, the last without a token included
  std::vector<at::Tensor> logprobs;  // [V] before each token, and after the last where it was an end token
  std::vector<float> gates;          // by position
  SessionVectors vectors;
};

// The request by itself, through Generate.
inline Alone GenerateAlone(const MoeModel& model, const CompletionTask& task) {
  Alone alone;
  Router router;
  RouterHook hook(router);
  OutputRecorder recorder(hook);
  GenerateOptions options = OptionsOf(task);
  options.hook = &recorder;
  std::optional<OnlineRerouting> rerouting;
  if (task.binding.tables || task.binding.session || task.rewire) options.slot = router.AddSlot(task.binding);
  at::Tensor from_context;
  if (task.rewire) {
    SessionVectors start = task.rewire->start;
    if (start.by_layer.empty() && task.binding.session) start = *task.binding.session;
    rerouting.emplace(
        model, router, hook, options.slot,
        OnlineReroutingOptions{
            .rerouting = task.rewire->rerouting, .start = std::move(start), .recompute = task.rewire->recompute});
    options.on_context = [&](std::span<const int32_t> context, KvCache& cache) {
      Result<at::Tensor> logits = rerouting->OnContext(context, cache);
      if (logits.ok() && logits.value().defined()) from_context = logits.value().view({-1}).log_softmax(-1);
      return logits;
    };
  }
  options.on_token = [&](int32_t token, std::string_view text) {
    alone.pieces.emplace_back(text);
    if (token >= 0) alone.logprobs.push_back(from_context.defined() ? from_context : recorder.last());
    from_context = at::Tensor();
    return true;
  };
  auto generated = Generate(model, task.prompt, options);
  EXPECT_TRUE(generated.ok()) << generated.error().message;
  if (generated.ok()) alone.generation = std::move(generated).value();
  if (options.slot != 0) alone.gates = router.GateHistory(options.slot);
  if (rerouting) alone.vectors = rerouting->vectors();
  return alone;
}

// The request got what it gets alone: tokens, text piece by piece, probabilities within 1e-4. A greedy choice between
// tokens closer than 1e-3 may fall out the other way; nothing after it can be compared.
inline void ExpectAs(const Alone& alone, const Told& told) {
  ASSERT_TRUE(told.ok()) << (told.done ? told.done->error().message : "it never ended");
  const Generation& got = told.value().generation;
  for (size_t i = 0; i < alone.logprobs.size(); ++i) {
    ASSERT_LT(i, got.tokens.size()) << "it ended early";
    const float* expected = alone.logprobs[i].const_data_ptr<float>();
    if (got.tokens[i] != alone.generation.tokens[i]) {
      ASSERT_NEAR(expected[got.tokens[i]], expected[alone.generation.tokens[i]], 1e-3) << "token " << i << " differs";
      return;
    }
    ASSERT_NEAR(told.outputs[i].logprob, expected[got.tokens[i]], 1e-4) << "token " << i;
    for (const LogProb& top : told.outputs[i].top) EXPECT_NEAR(top.logprob, expected[top.token], 1e-4);
    EXPECT_EQ(told.outputs[i].text, alone.pieces[i]) << "token " << i;
  }
  EXPECT_EQ(got.tokens, alone.generation.tokens);
  EXPECT_EQ(got.text, alone.generation.text);
  EXPECT_EQ(got.finish_reason, alone.generation.finish_reason);
  EXPECT_EQ(told.outputs.size(), alone.pieces.size());
  ASSERT_EQ(told.value().vectors.by_layer.size(), alone.vectors.by_layer.size());
  for (size_t layer = 0; layer < alone.vectors.by_layer.size(); ++layer) {
    const auto &a = told.value().vectors.by_layer[layer], &b = alone.vectors.by_layer[layer];
    ASSERT_EQ(a.size(), b.size());
    for (size_t e = 0; e < a.size(); ++e) EXPECT_NEAR(a[e], b[e], 1e-4) << "layer " << layer;
  }
}

inline void ExpectAsAlone(const MoeModel& model, const CompletionTask& task, const Told& told) {
  ExpectAs(GenerateAlone(model, task), told);
}

inline std::shared_ptr<const MoeModel> LoadTiny(TinyModelShape shape = {}) {
  shape.context = 96;
  TemporaryDirectory directory;
  WriteTinyModel(directory.path(), shape);
  auto model = MoeModel::Load(directory.path());
  EXPECT_TRUE(model.ok()) << model.error().message;
  return model.ok() ? std::shared_ptr<const MoeModel>(std::move(model).value()) : nullptr;
}

inline std::vector<int32_t> RandomPrompt(size_t length, uint32_t seed, int32_t below = 250) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % below);
  return tokens;
}

inline std::shared_ptr<const SessionVectors> RandomVectors(const MoeConfig& config, uint32_t seed) {
  std::mt19937 random(seed);
  SessionVectors session;
  session.by_layer.assign(config.num_layers, std::vector<float>(config.num_experts));
  for (auto& layer : session.by_layer) {
    for (float& value : layer) value = static_cast<float>(random() >> 8) * 0x1.0p-22f - 2.0f;
  }
  return std::make_shared<const SessionVectors>(std::move(session));
}

// Every kind of request beside every other: frozen, memories open, half open and shadowed, sessions, both; greedy and
// sampled; with stop strings, at the end of the context, of one token and of many chunks.
inline std::vector<CompletionTask> MixedTasks(const MoeModel& model) {
  const MoeConfig& c = model.config();
  const auto tables = [&](GateState gate) { return RandomTables(c.hidden_size, c.num_experts, c.num_layers, gate); };
  const auto open = tables(GateState::kOff), half = tables(GateState::kHalfOpen), shut = tables(GateState::kShut);
  const auto session = RandomVectors(c, 3);
  const std::vector<Binding> bindings{{},
                                      {.tables = half, .session = nullptr},
                                      {.tables = open, .session = nullptr, .strength = 0.5f},
                                      {.tables = nullptr, .session = session},
                                      {.tables = half, .session = session, .strength = 0.8f},
                                      {.tables = open, .session = nullptr, .shadow = true},
                                      {.tables = shut, .session = nullptr}};
  std::vector<CompletionTask> tasks;
  for (uint32_t i = 0; i < 14; ++i) {
    CompletionTask task;
    task.prompt = RandomPrompt(1 + (i * 11) % 43, i);
    task.max_tokens = 12 + i % 5;
    task.temperature = i % 3 == 0 ? 0 : 0.7 + 0.1 * (i % 4);
    task.top_p = i % 4 == 1 ? 0.8 : 1;
    task.seed = 100 + i;
    task.top_logprobs = static_cast<int>(i % 4);
    task.binding = bindings[i % bindings.size()];
    if (i == 5) task.max_tokens = 1000;  // until the context is full
    if (i == 8) task.stop = {"q", "\xC3\xA9", "zz"};
    tasks.push_back(std::move(task));
  }
  return tasks;
}

}  // namespace pointsman::testing
