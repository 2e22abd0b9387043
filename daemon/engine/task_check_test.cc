#include "daemon/engine/task_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "daemon/engine/testing/requests.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;

class Checked : public ::testing::Test {
 protected:
  Checked() {
    task_.prompt = {1, 2, 3};
    learn_.context = {1, 2, 3};
  }
  template <typename Task>
  std::string Message(const Task& task) const {
    const Status status = CheckTask(config_, task);
    if (status.ok()) return "";
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    return status.error().message;
  }
  const MoeConfig config_ = LoadTiny()->config();
  CompletionTask task_;
  LearnTask learn_;
};

TEST_F(Checked, AcceptsWhatTheModelCanServe) {
  EXPECT_EQ(Message(task_), "");
  EXPECT_EQ(Message(learn_), "");
  task_.binding = {.tables = RandomTables(24, 6, 3, GateState::kHalfOpen), .session = RandomVectors(config_, 1)};
  task_.rewire = RewireRequest{.rerouting = {}, .interval = 1, .recompute = false, .start = *RandomVectors(config_, 2)};
  task_.top_logprobs = 20;
  EXPECT_EQ(Message(task_), "");
}

TEST_F(Checked, RefusesWhatGenerateRefuses) {
  task_.prompt.clear();
  EXPECT_EQ(Message(task_), "the prompt is empty: give at least one token of text");
  task_.prompt.assign(97, 1);
  EXPECT_EQ(Message(task_), "the prompt has 97 tokens but the model's context is 96: shorten the prompt");
  task_.prompt = {1};
  task_.temperature = -1;
  EXPECT_THAT(Message(task_), HasSubstr("temperature is -1"));
  task_.temperature = 0;
  task_.stop = {""};
  EXPECT_THAT(Message(task_), HasSubstr("a stop string is empty"));
  task_.stop = {};
  task_.rewire = RewireRequest{.rerouting = {}, .interval = 0, .recompute = false, .start = {}};
  EXPECT_THAT(Message(task_), HasSubstr("context_interval is 0"));
  task_.rewire.reset();
  task_.top_logprobs = 21;
  EXPECT_EQ(Message(task_), "top_logprobs is 21: use 0 to 20");
}

TEST_F(Checked, RefusesAMemoryOfAnotherModel) {
  for (Binding* binding : {&task_.binding, &learn_.binding}) binding->tables = RandomTables(24, 7, 3, GateState::kOff);
  const std::string experts = "layer 0: 6 experts, the memory has 7; bind a memory that was built for this model";
  EXPECT_EQ(Message(task_), experts);
  EXPECT_EQ(Message(learn_), experts);
  task_.binding.tables = RandomTables(32, 6, 3, GateState::kOff);
  EXPECT_THAT(Message(task_), HasSubstr("hidden size is 24, the memory's keys have 32"));
  auto tables = std::make_shared<RoutingTables>(*RandomTables(24, 6, 3, GateState::kOff));
  tables->output.enabled = true;
  tables->output.keys = tables->layers[0].keys;
  tables->output.vocabulary = 5;
  task_.binding.tables = tables;
  EXPECT_THAT(Message(task_), HasSubstr("output: 263 logits, the memory's vocabulary has 5 tokens"));
}

TEST_F(Checked, RefusesASessionOfAnotherModel) {
  SessionVectors session{.by_layer = {{}, {1, 2, 3}}};
  const std::string expected = "layer 1: 6 experts, the session's vector has 3; bind a session of this model";
  for (Binding* binding : {&task_.binding, &learn_.binding}) {
    binding->session = std::make_shared<const SessionVectors>(session);
  }
  EXPECT_EQ(Message(task_), expected);
  EXPECT_EQ(Message(learn_), expected);
  task_.binding = {};
  task_.rewire = RewireRequest{.rerouting = {}, .interval = 8, .recompute = false, .start = session};
  EXPECT_EQ(Message(task_), expected);
  task_.rewire->start.by_layer.assign(4, std::vector<float>(6));
  EXPECT_THAT(Message(task_), HasSubstr("layer 3: the session has a vector, the model has 3 layers"));
  task_.rewire->start.by_layer = {{0, 0, std::numeric_limits<float>::quiet_NaN(), 0, 0, 0}};
  EXPECT_EQ(Message(task_), "layer 0: the session's vector is not finite; start a new session");
}

TEST_F(Checked, RefusesSettingsOfReroutingThatMeanNothing) {
  ReroutingOptions options;
  const auto refused = [&](const ReroutingOptions& given) {
    task_.rewire = RewireRequest{.rerouting = given, .interval = 8, .recompute = false, .start = {}};
    learn_.rerouting = given;
    EXPECT_EQ(Message(task_), Message(learn_));
    return Message(task_);
  };
  options.steps = -1;
  EXPECT_EQ(refused(options), "rewire: -1 steps; use 0 or more");
  options = {};
  options.rate = std::numeric_limits<double>::infinity();
  EXPECT_EQ(refused(options), "rewire: the rate is not finite; use 0.03 or near it");
  options = {};
  options.guard_margin = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(refused(options), "rewire: the guard's margin is not a number; use 0 or more");
  options = {};
  options.stop_below = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(refused(options), "rewire: stop is not a number; use 0 or more");
  options = {};
  options.layer_count = -2;
  EXPECT_EQ(refused(options), "rewire: -2 layers; use 1 or more, or 0 for half of them");
}

TEST_F(Checked, RefusesATextThatNothingCanBeLearnedFrom) {
  learn_.context = {7};
  EXPECT_EQ(Message(learn_), "the context has 1 tokens: give at least 2, one to read and one that follows");
  learn_.context.assign(97, 7);
  EXPECT_EQ(Message(learn_), "the context has 97 tokens but the model's holds 96: feed it in parts");
  learn_.context = {7, 400};
  EXPECT_THAT(Message(learn_), HasSubstr("token 400 but the vocabulary has ids 0 to 262"));
}

}  // namespace
}  // namespace pointsman
