// One request's failure stays its own, and the router sees each sequence's rows in order, whoever shares the pass.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <new>
#include <optional>

#include "daemon/engine/scheduler.h"
#include "daemon/engine/testing/requests.h"
#include "daemon/engine/testing/watched_model.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;

std::vector<std::shared_ptr<Told>> RunAll(const MoeModel& model, const std::vector<CompletionTask>& tasks) {
  Scheduler scheduler(model, {.slots = 32, .waiting = 0, .prefill_tokens = 16},
                      [](const std::function<void()>& report) { report(); });
  std::vector<std::shared_ptr<Told>> told;
  for (size_t i = 0; i < tasks.size(); ++i) {
    CompletionTask task = tasks[i];
    const Listener listener;
    listener.Attach(task);
    told.push_back(listener.told);
    scheduler.Admit(i, std::move(task), Scheduler::Clock::now());
  }
  while (scheduler.running() > 0) scheduler.Iterate();
  return told;
}

bool Holds(std::span<const int32_t> tokens, int32_t token) { return std::ranges::find(tokens, token) != tokens.end(); }

// A token that is in no prompt and that nobody says.
int32_t UnsaidToken(const MoeModel& model, const std::vector<CompletionTask>& tasks) {
  std::vector<int32_t> said;
  for (const CompletionTask& task : tasks) {
    const auto tokens = GenerateAlone(model, task).generation.tokens;
    said.insert(said.end(), tokens.begin(), tokens.end());
  }
  int32_t token = 250;  // RandomPrompt's are below
  while (Holds(said, token)) ++token;
  EXPECT_LT(token, model.config().vocab_size);
  return token;
}

// The task's prompt with `token` at its beginning, or in a later chunk of it.
void Spoil(CompletionTask& task, int32_t token, bool late) {
  task.prompt = RandomPrompt(30, 5);
  task.prompt[late ? 25 : 0] = token;
}

TEST(Isolation, ARequestForWhichMemoryRunsOutEndsAlone) {
  const auto model = LoadTiny();
  std::vector<CompletionTask> tasks = MixedTasks(*model);
  const int32_t bad = UnsaidToken(*model, tasks);
  Spoil(tasks[2], bad, /*late=*/false);
  Spoil(tasks[7], bad, /*late=*/true);
  size_t thrown = 0;
  const WatchedModel failing(model, [&](std::span<const MoeModel::RowSegment> segments, RoutingHook* hook) {
    for (const MoeModel::RowSegment& segment : segments) {
      if (!Holds(segment.tokens, bad)) continue;
      ++thrown;
      throw std::bad_alloc();
    }
    return hook;
  });
  const auto told = RunAll(failing, tasks);
  EXPECT_GE(thrown, 4u) << "with the others, and alone";
  for (size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(i);
    if (i != 2 && i != 7) {
      ExpectAsAlone(*model, tasks[i], *told[i]);
      continue;
    }
    ASSERT_TRUE(told[i]->done);
    ASSERT_FALSE(told[i]->done->ok());
    EXPECT_EQ(told[i]->done->error().code, ErrorCode::kInternal);
    EXPECT_EQ(told[i]->done->error().message, "the step failed in LibTorch (std::bad_alloc): free memory and retry");
    EXPECT_TRUE(told[i]->outputs.empty());
  }
}

// Reports an error for passes with a bad token, as a router does whose shapes do not fit.
class RefusingHook : public RoutingHook {
 public:
  RefusingHook(RouterHook& inner, int32_t bad) : inner_(inner), bad_(bad) {}
  void BeginStep(const StepInfo& step) override {
    StepInfo passed = step;
    if (Holds(step.tokens, bad_)) passed.slots.back() = 999;  // was never added: the router's own error
    inner_.BeginStep(passed);
  }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    return inner_.Route(layer, hidden, logits);
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return inner_.Output(hidden, logits);
  }

 private:
  RouterHook& inner_;
  int32_t bad_;
};

TEST(Isolation, ARequestThatTheRouterRefusesEndsAlone) {
  const auto model = LoadTiny();
  std::vector<CompletionTask> tasks = MixedTasks(*model);
  const int32_t bad = UnsaidToken(*model, tasks);
  tasks[1].prompt.back() = bad;  // has a memory
  std::optional<RefusingHook> refusing;
  const WatchedModel watched(model, [&](std::span<const MoeModel::RowSegment>, RoutingHook* hook) -> RoutingHook* {
    return hook ? &refusing.emplace(dynamic_cast<RouterHook&>(*hook), bad) : nullptr;
  });
  const auto told = RunAll(watched, tasks);
  for (size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(i);
    if (i != 1) {
      ExpectAsAlone(*model, tasks[i], *told[i]);
      continue;
    }
    ASSERT_FALSE(told[i]->done->ok());
    EXPECT_EQ(told[i]->done->error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(told[i]->done->error().message, HasSubstr("slot 999 is not live"));
  }
}

// A model in which one token alone has something in channel 0, which the first layer's values carry beyond what a float
// holds.
std::shared_ptr<const MoeModel> ModelThatOverflowsAfter(int32_t bad) {
  const auto model = LoadTiny({.tied = false});
  for (auto [name, weight] : model->Weights()) {
    if (name == "model.embed_tokens.weight") {
      weight.select(1, 0).zero_();
      weight[bad].zero_();
      weight[bad][0] = 1;
    }
    if (name == "model.layers.0.self_attn.v_proj.weight") weight.select(1, 0).fill_(3e38);
  }
  return model;
}

TEST(Isolation, ATextWhoseNumbersOverflowEndsAlone) {
  const std::vector<CompletionTask> usual = MixedTasks(*LoadTiny());
  int32_t bad = 250;
  std::shared_ptr<const MoeModel> model = ModelThatOverflowsAfter(bad);
  // Nobody but the two shall say it: the model differs a little for each choice.
  while (bad < 262 && UnsaidToken(*model, usual) != bad) model = ModelThatOverflowsAfter(++bad);
  std::vector<CompletionTask> tasks = usual;
  Spoil(tasks[2], bad, /*late=*/false);
  Spoil(tasks[3], bad, /*late=*/true);
  const auto told = RunAll(*model, tasks);
  for (size_t i = 0; i < tasks.size(); ++i) {
    SCOPED_TRACE(i);
    if (i != 2 && i != 3) {
      ExpectAsAlone(*model, tasks[i], *told[i]);
      continue;
    }
    ASSERT_FALSE(told[i]->done->ok());
    EXPECT_EQ(told[i]->done->error().code, ErrorCode::kInternal);
    EXPECT_THAT(told[i]->done->error().message, HasSubstr("the model's logits after position 29 of this text are not"));
  }
}

// What the router was given and made of it, row by row.
class RoutingRecord : public RoutingHook {
 public:
  struct Row {
    uint32_t position;
    int32_t token;
    std::map<int, std::vector<float>> hidden, before, after;  // by layer
  };
  void Wrap(RoutingHook* inner) { inner_ = inner; }
  void BeginStep(const StepInfo& step) override {
    first_.clear();
    for (size_t row = 0; row < step.slots.size(); ++row) {
      auto& rows = by_slot[step.slots[row]];
      first_.push_back(&rows.emplace_back(Row{step.positions[row], step.tokens[row], {}, {}, {}}));
    }
    inner_->BeginStep(step);
  }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const auto copy = [](const at::Tensor& matrix, size_t row) {
      const float* begin = matrix.const_data_ptr<float>() + row * matrix.size(1);
      return std::vector<float>(begin, begin + matrix.size(1));
    };
    for (size_t row = 0; row < first_.size(); ++row) {
      first_[row]->hidden[layer] = copy(hidden, row);
      first_[row]->before[layer] = copy(logits, row);
    }
    at::Tensor after = inner_->Route(layer, hidden, logits);
    for (size_t row = 0; row < first_.size(); ++row) first_[row]->after[layer] = copy(after, row);
    return after;
  }
  std::map<uint32_t, std::deque<Row>> by_slot;

 private:
  RoutingHook* inner_ = nullptr;
  std::vector<Row*> first_;
};

TEST(Isolation, TheRouterSeesEachSequenceInOrderAndAnswersBitForBitAsAlone) {
  const auto model = LoadTiny();
  RoutingRecord record;
  const WatchedModel watched(model, [&](std::span<const MoeModel::RowSegment>, RoutingHook* hook) -> RoutingHook* {
    if (!hook) return nullptr;
    record.Wrap(hook);
    return &record;
  });
  const std::vector<CompletionTask> tasks = MixedTasks(*model);
  const auto told = RunAll(watched, tasks);
  uint32_t slot = 0, changed = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const Binding& binding = tasks[i].binding;
    if (!binding.tables && !binding.session) continue;
    const auto& rows = record.by_slot[++slot];  // all were admitted before the first pass
    std::vector<int32_t> text = tasks[i].prompt;
    const auto& tokens = told[i]->value().generation.tokens;
    text.insert(text.end(), tokens.begin(), tokens.end());
    Router router;
    const uint32_t alone = router.AddSlot(binding);
    ASSERT_GE(rows.size(), tasks[i].prompt.size());
    for (size_t position = 0; position < rows.size(); ++position) {
      const RoutingRecord::Row& row = rows[position];
      ASSERT_EQ(row.position, position);
      ASSERT_EQ(row.token, text[position]);
      auto step = router.BeginStep({{alone}}, {{row.position}}, {{row.token}});
      ASSERT_TRUE(step.ok()) << step.error().message;
      for (const auto& [layer, before] : row.before) {
        std::vector<float> logits = before;
        ASSERT_TRUE(router.Route(step.value(), layer, row.hidden.at(layer), logits).ok());
        EXPECT_EQ(std::memcmp(logits.data(), row.after.at(layer).data(), logits.size() * sizeof(float)), 0)
            << "task " << i << " position " << position << " layer " << layer;
        changed += logits != before;
      }
    }
  }
  EXPECT_EQ(slot, 12u);
  EXPECT_GT(changed, 500u) << "the memories must act";
  for (const auto& row : record.by_slot[0]) {
    for (const auto& [layer, before] : row.before)
      EXPECT_EQ(before, row.after.at(layer)) << "slot 0 is the frozen model";
  }
}

}  // namespace
}  // namespace pointsman
