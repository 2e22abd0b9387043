// The engine's thread: bounds, cancelling, draining, counting, the kill switch.
#include "daemon/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "daemon/engine/recent_mean.h"
#include "daemon/engine/testing/requests.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RunningEngine : public ::testing::Test {
 protected:
  void Start(EngineOptions options) {
    options.threads = 1;
    auto started = Engine::Start(model_, options);
    ASSERT_TRUE(started.ok()) << started.error().message;
    engine_ = std::move(started).value();
  }

  static CompletionTask Plain(uint32_t seed, int64_t max_tokens = 10) {
    CompletionTask task;
    task.prompt = RandomPrompt(5 + seed, seed);
    task.max_tokens = max_tokens;
    task.ignore_end = true;
    return task;
  }

  // Submits it and listens.
  Listener Ask(CompletionTask task, uint64_t* id = nullptr) {
    const Listener listener;
    listener.Attach(task);
    auto submitted = engine_->Submit(std::move(task));
    EXPECT_TRUE(submitted.ok()) << submitted.error().message;
    if (submitted.ok() && id) *id = submitted.value();
    return listener;
  }

  // A request whose first token holds the compute thread until Release.
  Listener AskAndHold(uint64_t* id = nullptr) {
    CompletionTask task = Plain(1);
    const Listener listener;
    listener.Attach(task);
    task.on_token = [this, tell = task.on_token](const TokenOutput& output) {
      tell(output);
      held_.set_value();
      gate_.wait();
    };
    task.max_tokens = 1;
    auto submitted = engine_->Submit(std::move(task));
    EXPECT_TRUE(submitted.ok());
    if (submitted.ok() && id) *id = submitted.value();
    held_.get_future().wait();
    return listener;
  }
  void Release() { open_.set_value(); }

  std::shared_ptr<const RoutingTables> Memory(GateState gate = GateState::kOff) const {
    const MoeConfig& c = model_->config();
    return RandomTables(c.hidden_size, c.num_experts, c.num_layers, gate);
  }

  std::shared_ptr<const MoeModel> model_ = LoadTiny();
  std::promise<void> held_, open_;
  std::shared_future<void> gate_ = open_.get_future().share();
  std::unique_ptr<Engine> engine_;
};

TEST_F(RunningEngine, AnswersManyClientsAsEachAlone) {
  Start({.slots = 4, .waiting = 100, .prefill_tokens = 24});
  const std::vector<CompletionTask> tasks = MixedTasks(*model_);
  std::vector<Listener> listeners(3 * tasks.size());
  std::vector<std::thread> clients;
  for (size_t client = 0; client < 3; ++client) {
    clients.emplace_back([&, client] {
      for (size_t i = 0; i < tasks.size(); ++i) {
        const size_t task = (i * 5 + client) % tasks.size();
        listeners[client * tasks.size() + task] = Ask(tasks[task]);
        if (i % 3 == client) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  std::vector<Alone> alone;
  for (const CompletionTask& task : tasks) alone.push_back(GenerateAlone(*model_, task));
  for (size_t i = 0; i < listeners.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectAs(alone[i % tasks.size()], listeners[i].Wait());
  }
}

TEST_F(RunningEngine, RefusesWhatHasNoPlaceToWaitAndTakesItLater) {
  Start({.slots = 1, .waiting = 2});
  const Listener first = AskAndHold();
  const Listener second = Ask(Plain(2)), third = Ask(Plain(3));
  EXPECT_EQ(engine_->stats().running, 1u);
  EXPECT_EQ(engine_->stats().waiting, 2u);
  const auto refused = engine_->Submit(Plain(4));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_THAT(refused.error().message, HasSubstr("3 requests run or wait, which is the most: try again later"));
  Release();
  EXPECT_EQ(first.Wait().value().generation.tokens.size(), 1u);
  ExpectAsAlone(*model_, Plain(2), second.Wait());
  ExpectAsAlone(*model_, Plain(3), third.Wait());
  EXPECT_GT(third.Wait().value().queued_s, 0);
  ExpectAsAlone(*model_, Plain(4), Ask(Plain(4)).Wait());
}

TEST_F(RunningEngine, ACallbackMaySubmitIntoThePlaceThatItLeaves) {
  Start({.slots = 1, .waiting = 0});
  CompletionTask first = Plain(1);
  Listener second;
  std::promise<bool> accepted;
  first.on_done = [&](const Result<CompletionTask::Done>&) {
    CompletionTask task = Plain(2);
    second.Attach(task);
    accepted.set_value(engine_->Submit(std::move(task)).ok());
  };
  ASSERT_TRUE(engine_->Submit(std::move(first)).ok());
  ASSERT_TRUE(accepted.get_future().get());
  ExpectAsAlone(*model_, Plain(2), second.Wait());
}

TEST_F(RunningEngine, CancelsInTheMiddleAndWhileWaiting) {
  Start({.slots = 2, .waiting = 4});
  uint64_t held = 0, running = 0, waiting = 0;
  const Listener first = AskAndHold(&held);
  CompletionTask cancels_itself = Plain(2, 80);
  const Listener middle;
  middle.Attach(cancels_itself);
  cancels_itself.on_token = [&, tell = cancels_itself.on_token](const TokenOutput& output) {
    tell(output);
    if (middle.told->outputs.size() == 5) engine_->Cancel(running);
  };
  running = engine_->Submit(std::move(cancels_itself)).value();
  const Listener other = Ask(Plain(3, 30));
  const Listener late = Ask(Plain(4), &waiting);
  engine_->Cancel(waiting);
  engine_->Cancel(12345);  // nobody
  Release();
  const Told& never = late.Wait();
  ASSERT_TRUE(never.ok());
  EXPECT_EQ(never.value().generation.finish_reason, FinishReason::kCancelled);
  EXPECT_THAT(never.outputs, IsEmpty());
  EXPECT_THAT(never.value().generation.tokens, IsEmpty());
  EXPECT_GT(never.value().queued_s, 0);
  const Told& cut = middle.Wait();
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut.value().generation.finish_reason, FinishReason::kCancelled);
  const auto whole = GenerateAlone(*model_, Plain(2, 80)).generation.tokens;
  const auto& tokens = cut.value().generation.tokens;
  ASSERT_EQ(tokens.size(), 5u) << "it ended after the step";
  EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), whole.begin()));
  ExpectAsAlone(*model_, Plain(3, 30), other.Wait());
  engine_->Cancel(held);  // ended long ago
  ExpectAsAlone(*model_, Plain(5), Ask(Plain(5)).Wait());
}

TEST_F(RunningEngine, DrainsWhatItHasAndTakesNothingNew) {
  Start({.slots = 1, .waiting = 2});
  const Listener first = AskAndHold();
  const Listener second = Ask(Plain(2));
  EXPECT_FALSE(engine_->Drain(0.01)) << "one is held";
  const auto refused = engine_->Submit(Plain(3));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_EQ(refused.error().message, "the engine is stopping and takes no new requests");
  Release();
  EXPECT_TRUE(engine_->Drain(60));
  EXPECT_TRUE(first.told->ok() && second.told->ok()) << "it was told before Drain returned";
  ExpectAsAlone(*model_, Plain(2), *second.told);
}

TEST_F(RunningEngine, ItsEndCancelsEverything) {
  Start({.slots = 2, .waiting = 4});
  const Listener first = AskAndHold();
  const Listener running = Ask(Plain(2, 80)), waiting = Ask(Plain(3, 80)), behind = Ask(Plain(4, 80));
  LearnTask learn{.context = RandomPrompt(9, 1), .binding = {}, .rerouting = {}};
  std::promise<Result<LearnTask::Done>> learned;
  learn.on_done = [&](Result<LearnTask::Done> done) { learned.set_value(std::move(done)); };
  ASSERT_TRUE(engine_->Submit(std::move(learn)).ok());
  std::thread end([&] { engine_.reset(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // it waits for the step that is held
  Release();
  end.join();
  EXPECT_EQ(first.told->value().generation.finish_reason, FinishReason::kLength);
  for (const Listener* listener : {&running, &waiting, &behind}) {
    ASSERT_TRUE(listener->told->ok());
    EXPECT_EQ(listener->told->value().generation.finish_reason, FinishReason::kCancelled);
  }
  const auto result = learned.get_future().get();
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "the text was cancelled before anything was learned from it");
}

TEST_F(RunningEngine, CountsWhatItDoes) {
  Start({.slots = 8, .waiting = 8, .prefill_tokens = 16});
  const EngineStats before = engine_->stats();
  EXPECT_EQ(before.slots, 8u);
  EXPECT_EQ(before.steps + before.prompt_tokens + before.generated_tokens + before.running + before.waiting, 0u);
  CompletionTask routed = Plain(2, 7), learns = Plain(3, 9);
  routed.binding.tables = Memory();
  learns.rewire = RewireRequest{.rerouting = {}, .interval = 4, .recompute = false, .start = {}};
  std::vector<Listener> listeners{Ask(routed), Ask(learns), Ask(Plain(4, 1)), Ask(Plain(30, 12)), Ask(Plain(5, 0))};
  for (const Listener& listener : listeners) ASSERT_TRUE(listener.Wait().ok());
  const EngineStats after = engine_->stats();
  EXPECT_EQ(after.running, 0u);
  EXPECT_EQ(after.waiting, 0u);
  EXPECT_EQ(after.generated_tokens, 7u + 9 + 1 + 12);
  EXPECT_EQ(after.prompt_tokens, 7u + 8 + 9 + 35) << "the one of 0 tokens is not read";
  EXPECT_EQ(after.adaptations, 3u) << "at the prompt and after 4 and 8 tokens";
  EXPECT_GT(after.longest_adaptation_s, 0);
  EXPECT_GT(after.busy_s, after.longest_adaptation_s);
  EXPECT_GE(after.steps, 12u);
  EXPECT_GE(after.mean_batch, 1);
  EXPECT_LE(after.mean_batch, 3);
  const uint64_t layers = model_->config().num_layers;
  EXPECT_EQ(after.router.touched, (7 + 6) * layers) << "prompt and 6 tokens that were read";
  EXPECT_THAT(listeners[4].Wait().outputs, IsEmpty());
  EXPECT_EQ(listeners[4].Wait().value().generation.finish_reason, FinishReason::kLength);
}

TEST_F(RunningEngine, TimesAddUp) {
  Start({.slots = 1, .waiting = 1});
  CompletionTask learns = Plain(20, 30);
  learns.rewire = RewireRequest{.rerouting = {}, .interval = 8, .recompute = false, .start = {}};
  const auto begun = std::chrono::steady_clock::now();
  const CompletionTask::Done done = Ask(learns).Wait().value();
  const double total = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  for (const double part : {done.queued_s, done.prefill_s, done.decode_s, done.adapt_s}) EXPECT_GT(part, 0);
  EXPECT_LT(done.queued_s + done.prefill_s + done.decode_s + done.adapt_s, total);
}

TEST_F(RunningEngine, TheKillSwitchGivesTheFrozenModelsTokens) {
  Start({.slots = 4, .waiting = 4});
  engine_->SetKillSwitch(true);
  CompletionTask routed = Plain(6, 20), learns = Plain(7, 20);
  routed.binding = {.tables = Memory(), .session = RandomVectors(model_->config(), 3)};
  learns.binding.tables = Memory();
  learns.rewire = RewireRequest{.rerouting = {.rule = ReroutingRule::kEvidence, .rate = 1.0},
                                .interval = 4,
                                .recompute = true,
                                .start = *RandomVectors(model_->config(), 4)};
  const Listener a = Ask(routed), b = Ask(learns);
  ExpectAsAlone(*model_, Plain(6, 20), a.Wait());
  EXPECT_EQ(b.Wait().value().generation.tokens, GenerateAlone(*model_, Plain(7, 20)).generation.tokens);
  EXPECT_EQ(engine_->stats().router.written, 0u);
  EXPECT_EQ(engine_->stats().adaptations, 0u);
  engine_->SetKillSwitch(false);
  ExpectAsAlone(*model_, routed, Ask(routed).Wait());
  EXPECT_NE(GenerateAlone(*model_, routed).generation.tokens, GenerateAlone(*model_, Plain(6, 20)).generation.tokens)
      << "the memory is meant to be felt";
}

TEST_F(RunningEngine, TheKillSwitchMayTurnAtAnyTime) {
  Start({.slots = 4, .waiting = 100});
  std::atomic<bool> over{false};
  std::thread switches([&] {
    for (bool off = true; !over; off = !off) engine_->SetKillSwitch(off);
  });
  std::vector<Listener> listeners;
  for (const CompletionTask& task : MixedTasks(*model_)) listeners.push_back(Ask(task));
  for (const Listener& listener : listeners) EXPECT_TRUE(listener.Wait().ok());
  over = true;
  switches.join();
}

TEST_F(RunningEngine, FeedsASessionBesideTheOthers) {
  Start({.slots = 4, .waiting = 4});
  const ReroutingOptions bold{.rule = ReroutingRule::kEvidence, .steps = 2, .rate = 1.0};
  LearnTask learn{.context = RandomPrompt(30, 5, 20),
                  .binding = {.tables = Memory(GateState::kHalfOpen), .session = RandomVectors(model_->config(), 8)},
                  .rerouting = bold};
  Router router;
  RouterHook hook(router);
  OnlineRerouting alone(*model_, router, hook, router.AddSlot({.tables = learn.binding.tables, .session = nullptr}),
                        {.rerouting = bold, .start = *learn.binding.session});
  const auto expected = alone.Feed(learn.context);
  ASSERT_TRUE(expected.ok());

  std::promise<Result<LearnTask::Done>> learned;
  learn.on_done = [&](Result<LearnTask::Done> done) { learned.set_value(std::move(done)); };
  const Listener beside = Ask(Plain(2, 40));
  ASSERT_TRUE(engine_->Submit(std::move(learn)).ok());
  const auto result = learned.get_future().get();
  ASSERT_TRUE(result.ok()) << result.error().message;
  for (size_t layer = 0; layer < 3; ++layer) {
    for (size_t e = 0; e < 6; ++e) {
      EXPECT_NEAR(result.value().vectors.by_layer.at(layer).at(e), alone.vectors().by_layer[layer][e], 1e-5);
    }
  }
  EXPECT_NEAR(result.value().loss_before, expected.value().loss_before, 1e-5);
  EXPECT_NEAR(result.value().loss_after, expected.value().loss_after, 1e-5);
  EXPECT_LT(result.value().loss_after, result.value().loss_before);
  EXPECT_TRUE(result.value().kept);
  EXPECT_GT(result.value().seconds, 0);
  ExpectAsAlone(*model_, Plain(2, 40), beside.Wait());

  // What was learned is the next request's session.
  CompletionTask next = Plain(3);
  next.binding.session = std::make_shared<const SessionVectors>(result.value().vectors);
  ExpectAsAlone(*model_, next, Ask(next).Wait());
}

// Learning runs passes of its own through the hook that the shared passes use; their rows are in nobody's trace.
TEST_F(RunningEngine, LearningLeavesNothingInTheTracesOfOthers) {
  Start({.slots = 4, .waiting = 40});
  CompletionTask explained = Plain(3, 60);
  explained.binding = {.tables = Memory(GateState::kHalfOpen), .session = nullptr};
  explained.explain = true;
  const Listener listener = Ask(explained);
  for (int i = 0; i < 12; ++i) {
    LearnTask learn{.context = RandomPrompt(60, 5, 20),
                    .binding = {.tables = Memory(GateState::kHalfOpen), .session = nullptr},
                    .rerouting = {}};
    std::promise<Result<LearnTask::Done>> learned;
    learn.on_done = [&](Result<LearnTask::Done> done) { learned.set_value(std::move(done)); };
    ASSERT_TRUE(engine_->Submit(std::move(learn)).ok());
    ASSERT_TRUE(learned.get_future().get().ok());
  }
  const Told& told = listener.Wait();
  ASSERT_TRUE(told.ok());
  for (const TokenOutput& output : told.outputs) {
    if (output.token >= 0) {
      EXPECT_EQ(output.trace.size(), 3u);
    }
  }
  ExpectAsAlone(*model_, explained, told);
}

TEST_F(RunningEngine, ExplainsEveryToken) {
  Start({.slots = 2, .waiting = 2});
  CompletionTask task = Plain(4, 6);
  task.binding = {.tables = Memory(GateState::kHalfOpen), .session = nullptr};
  task.explain = true;
  task.top_logprobs = 3;
  const Listener beside = Ask(Plain(9, 20)), listener = Ask(task);
  const Told& told = listener.Wait();
  ASSERT_TRUE(told.ok());
  ASSERT_EQ(told.value().generation.tokens.size(), 6u);
  for (size_t t = 0; t < 6; ++t) {
    const TokenOutput& output = told.outputs[t];
    ASSERT_EQ(output.trace.size(), 3u);
    float sum = 0;
    for (size_t layer = 0; layer < 3; ++layer) {
      EXPECT_EQ(output.trace[layer].layer, static_cast<int32_t>(layer));
      EXPECT_EQ(output.trace[layer].row, 0u);
      EXPECT_EQ(output.trace[layer].gate, output.gate);
      EXPECT_TRUE(output.trace[layer].written);
      EXPECT_EQ(output.trace[layer].neighbours.size(), 4u);
      EXPECT_NE(output.trace[layer].logits_before, output.trace[layer].logits_after);
      sum += output.gate * output.trace[layer].confidence;
    }
    EXPECT_NEAR(output.confidence, sum / 3, 1e-6);
    EXPECT_GT(output.confidence, 0);
    ASSERT_EQ(output.top.size(), 3u);
    EXPECT_EQ(output.top[0].token, output.token) << "greedy";
    EXPECT_EQ(output.top[0].logprob, output.logprob);
    EXPECT_GE(output.top[0].logprob, output.top[1].logprob);
    EXPECT_GE(output.top[1].logprob, output.top[2].logprob);
  }
  for (const TokenOutput& output : beside.Wait().outputs) {
    EXPECT_THAT(output.trace, IsEmpty());
    EXPECT_EQ(output.gate, 0);
    EXPECT_THAT(output.top, IsEmpty());
  }
}

TEST(EngineStart, RefusesOptionsOutOfRange) {
  const auto model = LoadTiny();
  const auto message = [&](EngineOptions options) {
    const auto started = Engine::Start(model, options);
    return started.ok() ? "" : started.error().message;
  };
  EXPECT_EQ(message({.slots = 0}), "engine: there are 0 slots; use 1 or more");
  EXPECT_EQ(message({.prefill_tokens = 0}), "engine: prefill_tokens is 0; use 1 or more");
  EXPECT_EQ(message({.threads = -1}), "engine: -1 threads; use 0 or more");
}

TEST(RecentMean, IsOfTheLastMinute) {
  RecentMean mean;
  EXPECT_EQ(mean.Mean(5), 0);
  mean.Add(100, 2);
  mean.Add(100, 4);
  mean.Add(130, 9);
  EXPECT_EQ(mean.Mean(130), 5);
  EXPECT_EQ(mean.Mean(159), 5);
  EXPECT_EQ(mean.Mean(160), 9) << "the second 100 is a minute ago";
  mean.Add(160, 1);  // in the place of second 100
  EXPECT_EQ(mean.Mean(160), 5);
  EXPECT_EQ(mean.Mean(1000), 0);
}

}  // namespace
}  // namespace pointsman
