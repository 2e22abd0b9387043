// The engine's promise: a request that shares its passes with others gets what it gets alone.
#include <gtest/gtest.h>

#include <random>

#include "daemon/engine/scheduler.h"
#include "daemon/engine/testing/requests.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures

// Runs tasks in the order and at the times that the test chooses; on one thread.
class Stage {
 public:
  explicit Stage(const MoeModel& model, EngineOptions options = {.slots = 16, .waiting = 0, .prefill_tokens = 16})
      : scheduler(model, options, [](const std::function<void()>& report) { report(); }) {}

  std::shared_ptr<Told> Admit(uint64_t id, CompletionTask task) {
    const Listener listener;
    listener.Attach(task);
    scheduler.Admit(id, std::move(task), Scheduler::Clock::now());
    return listener.told;
  }
  void Finish() {
    while (scheduler.running() > 0) scheduler.Iterate();
  }
  Scheduler scheduler;
};

class Shapes : public ::testing::TestWithParam<TinyModelShape> {};

INSTANTIATE_TEST_SUITE_P(Models, Shapes,
                         ::testing::Values(TinyModelShape{},
                                           TinyModelShape{.kv_heads = 4, .top_k = 3, .normalize = true, .tied = false},
                                           TinyModelShape{.kv_heads = 1, .clip = 0.5}));

TEST_P(Shapes, RequestsThatStartTogetherGetWhatTheyGetAlone) {
  const auto model = LoadTiny(GetParam());
  const std::vector<CompletionTask> tasks = MixedTasks(*model);
  Stage stage(*model);
  std::vector<std::shared_ptr<Told>> told;
  for (size_t i = 0; i < tasks.size(); ++i) told.push_back(stage.Admit(i, tasks[i]));
  stage.Finish();
  for (size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectAsAlone(*model, tasks[i], *told[i]);
  }
}

TEST(Equality, RequestsThatJoinAndLeaveAtAnyTimeGetWhatTheyGetAlone) {
  const auto model = LoadTiny();
  const std::vector<CompletionTask> tasks = MixedTasks(*model);
  std::vector<Alone> alone;
  for (const CompletionTask& task : tasks) alone.push_back(GenerateAlone(*model, task));
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Stage stage(*model, {.slots = 5, .waiting = 0, .prefill_tokens = 1 + static_cast<uint32_t>(random() % 40)});
    std::vector<std::pair<size_t, std::shared_ptr<Told>>> all;
    std::vector<uint64_t> cancelled;
    for (size_t next = 0; next < 30 || stage.scheduler.running() > 0;) {
      while (next < 30 && stage.scheduler.running() < 5 && random() % 3 == 0) {
        all.emplace_back(random() % tasks.size(), nullptr);
        all.back().second = stage.Admit(next++, tasks[all.back().first]);
      }
      if (!all.empty() && random() % 8 == 0 && stage.scheduler.Cancel(random() % all.size())) cancelled.push_back(0);
      stage.scheduler.Iterate();
    }
    EXPECT_FALSE(cancelled.empty()) << "nobody left: the seed is no good";
    for (const auto& [task, told] : all) {
      ASSERT_TRUE(told->ok());
      const Generation& got = told->value().generation;
      if (got.finish_reason != FinishReason::kCancelled) {
        ExpectAs(alone[task], *told);
        continue;
      }
      const auto& whole = alone[task].generation.tokens;
      ASSERT_LE(got.tokens.size(), whole.size());
      EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), whole.begin())) << "not a beginning of it";
    }
  }
}

TEST(Equality, TheReferenceModelAnswersInABatchAsAlone) {
  const std::filesystem::path path = std::filesystem::path(POINTSMAN_SOURCE_DIR) / "models/reference";
  auto loaded = MoeModel::Load(path);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const MoeModel& model = *loaded.value();
  const MoeConfig& c = model.config();
  const auto half = RandomTables(c.hidden_size, c.num_experts, c.num_layers, GateState::kHalfOpen);
  std::vector<CompletionTask> tasks;
  for (const char* text : {"#include <vector>\n\nint main(", "The router of a mixture of experts",
                           "1 + 2 =", "// Returns the number of rows that\n", "SELECT name, count(*) FROM"}) {
    CompletionTask task;
    task.prompt = model.tokenizer().Encode(text);
    task.max_tokens = 24;
    task.temperature = tasks.size() % 2 == 0 ? 0 : 0.9;
    task.seed = tasks.size();
    task.ignore_end = true;
    if (tasks.size() % 3 != 0) task.binding = {.tables = half, .session = nullptr, .strength = 0.5f};
    tasks.push_back(std::move(task));
  }
  Stage stage(model);
  std::vector<std::shared_ptr<Told>> told;
  for (size_t i = 0; i < tasks.size(); ++i) told.push_back(stage.Admit(i, tasks[i]));
  stage.Finish();
  for (size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectAsAlone(model, tasks[i], *told[i]);
  }
}

// A request's outputs to the last bit.
void ExpectSameBits(const Told& a, const Told& b) {
  ASSERT_EQ(a.outputs.size(), b.outputs.size());
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    EXPECT_EQ(a.outputs[i].token, b.outputs[i].token);
    EXPECT_EQ(a.outputs[i].logprob, b.outputs[i].logprob) << i;
    EXPECT_EQ(a.outputs[i].gate, b.outputs[i].gate) << i;
    EXPECT_EQ(a.outputs[i].confidence, b.outputs[i].confidence) << i;
    ASSERT_EQ(a.outputs[i].trace.size(), b.outputs[i].trace.size());
    for (size_t l = 0; l < a.outputs[i].trace.size(); ++l) {
      EXPECT_EQ(a.outputs[i].trace[l].logits_after, b.outputs[i].trace[l].logits_after) << i << " " << l;
    }
  }
}

TEST(Equality, ASlotKeepsNothingOfItsEarlierRequest) {
  const auto model = LoadTiny();
  std::vector<CompletionTask> tasks = MixedTasks(*model);
  for (CompletionTask& task : tasks) task.explain = true;
  const EngineOptions one_slot{.slots = 1, .waiting = 0, .prefill_tokens = 64};
  for (const size_t later : {1u, 4u, 8u, 9u}) {  // half-open gates: what they have read shows
    Stage fresh(*model, one_slot), used(*model, one_slot);
    const auto expected = fresh.Admit(0, tasks[later]);
    fresh.Finish();
    for (const size_t earlier : {11u, 5u, 4u}) {
      used.Admit(earlier, tasks[earlier]);
      used.Finish();
    }
    const auto got = used.Admit(20, tasks[later]);
    used.Finish();
    ExpectSameBits(*got, *expected);
    EXPECT_GT(got->outputs.front().gate, 0) << "the memory must act";
  }
}

TEST(Equality, GatesAreThoseOfTheTextAlone) {
  const auto model = LoadTiny();
  const std::vector<CompletionTask> tasks = MixedTasks(*model);
  Stage stage(*model);
  std::vector<std::shared_ptr<Told>> told;
  for (size_t i = 0; i < tasks.size(); ++i) told.push_back(stage.Admit(i, tasks[i]));
  stage.Finish();
  size_t compared = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const Alone alone = GenerateAlone(*model, tasks[i]);
    for (size_t t = 0; t < told[i]->value().generation.tokens.size() && !alone.gates.empty(); ++t) {
      EXPECT_EQ(told[i]->outputs[t].gate, alone.gates[tasks[i].prompt.size() - 1 + t]) << i << " " << t;
      ++compared;
    }
  }
  EXPECT_GT(compared, 50u);
}

// Tasks that learn while they generate: at the prompt, every 4 tokens, keeping or recomputing what was read; from
// zeros, from a session and from given vectors; beside a memory and with an explanation.
std::vector<CompletionTask> LearningTasks(const MoeModel& model) {
  const MoeConfig& c = model.config();
  const auto half = RandomTables(c.hidden_size, c.num_experts, c.num_layers, GateState::kHalfOpen);
  const ReroutingOptions bold{
      .rule = ReroutingRule::kEvidence, .steps = 2, .rate = 1.0, .layers = ReroutedLayers::kLast, .layer_count = 2};
  std::vector<CompletionTask> tasks;
  for (uint32_t i = 0; i < 6; ++i) {
    CompletionTask task;
    task.prompt = RandomPrompt(2 + 7 * i, 40 + i, 30);
    task.max_tokens = 14;
    task.ignore_end = true;
    task.explain = i == 4;
    if (i % 2 == 0) task.binding.tables = half;
    if (i == 1) task.binding.session = RandomVectors(c, 9);
    task.rewire = RewireRequest{.rerouting = bold, .interval = 4, .recompute = i >= 3, .start = {}};
    if (i == 2) task.rewire->start = *RandomVectors(c, 10);
    tasks.push_back(std::move(task));
  }
  return tasks;
}

TEST(Equality, LearningInsideABatchIsLearningAlone) {
  const auto model = LoadTiny();
  std::vector<CompletionTask> tasks = LearningTasks(*model);
  const size_t learning = tasks.size();
  for (CompletionTask& task : MixedTasks(*model)) tasks.push_back(std::move(task));
  Stage stage(*model, {.slots = 32, .waiting = 0, .prefill_tokens = 16});
  std::vector<std::shared_ptr<Told>> told;
  for (size_t i = 0; i < tasks.size(); ++i) told.push_back(stage.Admit(i, tasks[i]));
  stage.Finish();
  for (size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectAsAlone(*model, tasks[i], *told[i]);
    if (i >= learning) continue;
    CompletionTask plain = tasks[i];
    plain.rewire.reset();
    EXPECT_NE(told[i]->value().generation.tokens, GenerateAlone(*model, plain).generation.tokens)
        << "the vectors are meant to be felt";
    EXPECT_GT(told[i]->value().adapt_s, 0);
  }
  EXPECT_EQ(stage.scheduler.stats().adaptations, 6u * 4) << "at the prompt and after 4, 8 and 12 tokens";
}

TEST(Equality, LearningTakesTurnsAndTheOthersGoOn) {
  const auto model = LoadTiny();
  std::vector<CompletionTask> tasks = LearningTasks(*model);
  CompletionTask plain;
  plain.prompt = RandomPrompt(3, 1);
  plain.max_tokens = 6;
  plain.ignore_end = true;
  Stage stage(*model);
  const auto talks = stage.Admit(9, plain);
  const auto first = stage.Admit(0, tasks[0]), second = stage.Admit(1, tasks[1]);
  stage.scheduler.Iterate();
  EXPECT_EQ(stage.scheduler.stats().adaptations, 1u);
  EXPECT_EQ(talks->outputs.size(), 1u);
  EXPECT_EQ(first->outputs.size(), 1u);
  EXPECT_EQ(second->outputs.size(), 0u) << "it waits for its turn";
  stage.scheduler.Iterate();
  EXPECT_EQ(stage.scheduler.stats().adaptations, 2u);
  EXPECT_EQ(talks->outputs.size(), 2u);
  EXPECT_EQ(second->outputs.size(), 1u);
  stage.Finish();
}

}  // namespace
}  // namespace pointsman
