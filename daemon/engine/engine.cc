#include "daemon/engine/engine.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>

#include "daemon/engine/scheduler.h"
#include "daemon/engine/task_check.h"
#include "daemon/thread_priority.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

struct Arrival {
  uint64_t id = 0;
  std::variant<CompletionTask, LearnTask> task;
  Scheduler::Clock::time_point submitted;
};

void ReportCancelled(const CompletionTask& task, Scheduler::Clock::time_point submitted) {
  CompletionTask::Done done;
  done.generation.finish_reason = FinishReason::kCancelled;
  done.queued_s = SecondsSince(submitted);
  if (task.on_done) task.on_done(std::move(done));
}

void ReportCancelled(const LearnTask& task, Scheduler::Clock::time_point) {
  if (task.on_done) task.on_done(CancelledLearning());
}

}  // namespace

struct Engine::Impl {
  Impl(std::shared_ptr<const MoeModel> served, const EngineOptions& given)
      : model(std::move(served)),
        options(given),
        scheduler(*model, options, [this](const std::function<void()>& report) { End(report); }) {}

  Result<uint64_t> Submit(std::variant<CompletionTask, LearnTask> task);
  Status Admits() const;  // REQUIRES: the mutex is held
  void Run();
  bool Receive(std::vector<Arrival>* admitted, std::vector<Arrival>* cancelled);
  void Admit(Arrival& arrival);
  void End(const std::function<void()>& report);
  void Publish(double busy_s);

  const std::shared_ptr<const MoeModel> model;
  const EngineOptions options;
  Scheduler scheduler;  // the compute thread's

  mutable std::mutex mutex;
  std::condition_variable work, idle;
  // Under the mutex.
  std::deque<Arrival> waiting;
  std::vector<uint64_t> cancels;
  EngineStats stats;
  uint64_t next_id = 1;
  uint32_t in_flight = 0;   // accepted and not ended
  uint32_t unreported = 0;  // accepted, and on_done has not returned
  bool draining = false, stopping = false;

  std::thread thread;
};

Result<uint64_t> Engine::Impl::Submit(std::variant<CompletionTask, LearnTask> task) {
  POINTSMAN_CHECK_OK(std::visit([&](const auto& given) { return CheckTask(model->config(), given); }, task));
  const std::lock_guard lock(mutex);
  POINTSMAN_CHECK_OK(Admits());
  ++in_flight;
  ++unreported;
  waiting.push_back({next_id, std::move(task), Scheduler::Clock::now()});
  work.notify_one();
  return next_id++;
}

Status Engine::Impl::Admits() const {
  if (draining || stopping) return Error{ErrorCode::kBusy, "the engine is stopping and takes no new requests"};
  if (in_flight < options.slots + options.waiting) return {};
  return Error{ErrorCode::kBusy, fmt::format("{} requests run or wait, which is the most: try again later, or allow "
                                             "more with --slots and --waiting",
                                             in_flight)};
}

// Waits for something to do. Takes the arrivals that have a slot and those that were cancelled while they waited; false
// when the engine stops: then `cancelled` are all that wait.
bool Engine::Impl::Receive(std::vector<Arrival>* admitted, std::vector<Arrival>* cancelled) {
  std::unique_lock lock(mutex);
  work.wait(lock, [&] { return stopping || scheduler.running() > 0 || !waiting.empty() || !cancels.empty(); });
  for (const uint64_t id : std::exchange(cancels, {})) {
    if (scheduler.Cancel(id)) continue;
    const auto found = std::ranges::find(waiting, id, &Arrival::id);
    if (found == waiting.end()) continue;
    cancelled->push_back(std::move(*found));
    waiting.erase(found);
  }
  while (!waiting.empty() && (stopping || scheduler.running() + admitted->size() < options.slots)) {
    (stopping ? cancelled : admitted)->push_back(std::move(waiting.front()));
    waiting.pop_front();
  }
  return !stopping;
}

void Engine::Impl::Run() {
  YieldToNetwork();  // LibTorch's threads are started from here, and inherit it
  at::set_num_threads(options.threads > 0 ? options.threads
                                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  for (;;) {
    std::vector<Arrival> admitted, cancelled;
    const bool goes_on = Receive(&admitted, &cancelled);
    const auto begun = Scheduler::Clock::now();
    for (const Arrival& arrival : cancelled) {
      End([&] { std::visit([&](const auto& task) { ReportCancelled(task, arrival.submitted); }, arrival.task); });
    }
    if (!goes_on) break;
    for (Arrival& arrival : admitted) Admit(arrival);
    scheduler.Iterate();
    Publish(SecondsSince(begun));
  }
  scheduler.CancelAll();
}

void Engine::Impl::Admit(Arrival& arrival) {
  if (auto* completion = std::get_if<CompletionTask>(&arrival.task)) {
    scheduler.Admit(arrival.id, std::move(*completion), arrival.submitted);
  } else {
    scheduler.Admit(arrival.id, std::move(std::get<LearnTask>(arrival.task)));
  }
}

void Engine::Impl::End(const std::function<void()>& report) {
  Publish(0);  // who is told on_done finds itself in stats()
  {
    const std::lock_guard lock(mutex);
    --in_flight;  // and may submit again
  }
  report();
  const std::lock_guard lock(mutex);
  if (--unreported == 0) idle.notify_all();
}

void Engine::Impl::Publish(double busy_s) {
  EngineStats now = scheduler.stats();
  const std::lock_guard lock(mutex);
  now.busy_s = stats.busy_s + busy_s;
  stats = now;
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  impl_->stats.slots = impl_->options.slots;
  impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    impl_->work.notify_one();
  }
  impl_->thread.join();
}

Result<std::unique_ptr<Engine>> Engine::Start(std::shared_ptr<const MoeModel> model, const EngineOptions& options) {
  const auto invalid = [](std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; };
  if (options.slots < 1) return invalid("engine: there are 0 slots; use 1 or more");
  if (options.prefill_tokens < 1) return invalid("engine: prefill_tokens is 0; use 1 or more");
  if (options.threads < 0) return invalid(fmt::format("engine: {} threads; use 0 or more", options.threads));
  try {
    return std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(std::move(model), options)));
  } catch (const std::exception& exception) {
    return Error{ErrorCode::kInternal,
                 fmt::format("engine: its thread does not start ({}): free memory or threads", exception.what())};
  }
}

Result<uint64_t> Engine::Submit(CompletionTask task) { return impl_->Submit(std::move(task)); }

Result<uint64_t> Engine::Submit(LearnTask task) { return impl_->Submit(std::move(task)); }

Status Engine::Admits() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->Admits();
}

void Engine::Cancel(uint64_t id) {
  const std::lock_guard lock(impl_->mutex);
  impl_->cancels.push_back(id);
  impl_->work.notify_one();
}

bool Engine::Drain(double timeout_s) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  return impl_->idle.wait_for(lock, std::chrono::duration<double>(timeout_s),
                              [this] { return impl_->unreported == 0; });
}

void Engine::SetKillSwitch(bool off) { impl_->scheduler.SetKillSwitch(off); }

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->stats;
  stats.waiting = static_cast<uint32_t>(impl_->waiting.size());
  stats.running = impl_->in_flight - stats.waiting;
  return stats;
}

const MoeModel& Engine::model() const { return *impl_->model; }

}  // namespace pointsman
