// What runs now and in which order: the engine without its thread. Everything is called on one thread, but for
// SetKillSwitch. A task's callbacks run inside Iterate, Admit and CancelAll.
//
// Prompts are read in the order of admission, `prefill_tokens` rows a pass; every request that decodes has its row in
// every pass, unless it waits for its turn to learn. Learning takes turns by who came to want it first.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/engine/completion.h"
#include "daemon/engine/compute.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/recent_mean.h"

namespace pointsman {

// What on_done of a LearnTask is told that never ran.
Error CancelledLearning();

class Scheduler {
 public:
  using Clock = Completion::Clock;
  // Called when a task ends; must call `report`, which tells the task's on_done.
  using EndFunction = std::function<void(const std::function<void()>& report)>;

  // The model is borrowed.
  Scheduler(const MoeModel& model, const EngineOptions& options, EndFunction end);

  // Tasks that hold a slot.
  uint32_t running() const { return static_cast<uint32_t>(completions_.size() + learning_.size()); }
  // REQUIRES: running() < options.slots; CheckTask accepted the task.
  void Admit(uint64_t id, CompletionTask task, Clock::time_point submitted);
  void Admit(uint64_t id, LearnTask task);

  // false: no such task runs. It ends in the next Iterate, without a step.
  bool Cancel(uint64_t id);
  void CancelAll();
  // At most one adaptation, then a pass, then what ended.
  void Iterate();

  void SetKillSwitch(bool off);
  // Of EngineStats: what the scheduler knows.
  EngineStats stats() const;

 private:
  struct Learning {
    uint64_t id;
    LearnTask task;
    bool cancelled = false;
  };
  void QueueAdaptations();
  void AdaptOne();
  bool Adapt(uint64_t id);  // false: nobody of that id learns any more
  Result<LearnTask::Done> Learn(const LearnTask& task);
  void RunStep();
  void EndFinished();
  // Runs what may throw or fail for one request; a failure is that request's.
  void Guard(Completion& completion, const std::function<Status()>& action);

  EngineOptions options_;
  EndFunction end_;
  Compute compute_;
  std::atomic<bool> off_{false};
  std::vector<std::unique_ptr<Completion>> completions_;  // by admission
  std::vector<Learning> learning_;
  std::deque<uint64_t> due_;  // ids that wait to learn
  EngineStats stats_;
  RecentMean batch_;
};

}  // namespace pointsman
