#include "daemon/engine/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "adapt/online_rerouting.h"
#include "daemon/engine/shared_pass.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

Error Failed(const std::exception& exception) {
  const std::string text = exception.what();
  return {ErrorCode::kInternal,
          fmt::format("the request failed in LibTorch ({}): free memory and retry", text.substr(0, text.find('\n')))};
}

int64_t ThisSecond() {
  return std::chrono::duration_cast<std::chrono::seconds>(Scheduler::Clock::now().time_since_epoch()).count();
}

}  // namespace

Error CancelledLearning() { return {ErrorCode::kBusy, "the text was cancelled before anything was learned from it"}; }

Scheduler::Scheduler(const MoeModel& model, const EngineOptions& options, EndFunction end)
    : options_(options), end_(std::move(end)), compute_(model) {}

void Scheduler::Admit(uint64_t id, CompletionTask task, Clock::time_point submitted) {
  const auto on_done = task.on_done;
  try {
    completions_.push_back(std::make_unique<Completion>(compute_, id, std::move(task), submitted));
  } catch (const std::exception& exception) {
    end_([&] {
      if (on_done) on_done(Failed(exception));
    });
  }
}

void Scheduler::Admit(uint64_t id, LearnTask task) {
  learning_.push_back({id, std::move(task)});
  due_.push_back(id);
}

bool Scheduler::Cancel(uint64_t id) {
  const auto completion = std::ranges::find(completions_, id, &Completion::id);
  if (completion != completions_.end()) {
    (*completion)->Cancel();
    return true;
  }
  const auto learning = std::ranges::find(learning_, id, &Learning::id);
  if (learning != learning_.end()) learning->cancelled = true;
  return learning != learning_.end();
}

void Scheduler::CancelAll() {
  for (const auto& completion : completions_) completion->Cancel();
  EndFinished();
  for (Learning& learning : learning_) learning.cancelled = true;
  while (!learning_.empty()) Adapt(learning_.front().id);
}

void Scheduler::Iterate() {
  EndFinished();
  QueueAdaptations();
  AdaptOne();
  RunStep();
  EndFinished();
}

void Scheduler::SetKillSwitch(bool off) {
  off_.store(off);
  compute_.router.SetKillSwitch(off);
}

EngineStats Scheduler::stats() const {
  EngineStats stats = stats_;
  stats.running = running();
  stats.slots = options_.slots;
  stats.mean_batch = batch_.Mean(ThisSecond());
  stats.router = compute_.router.counters();
  return stats;
}

void Scheduler::QueueAdaptations() {
  for (const auto& completion : completions_) {
    if (!completion->WantsAdaptation()) continue;
    if (off_.load()) {
      completion->SkipAdaptation();
    } else if (std::ranges::find(due_, completion->id()) == due_.end()) {
      due_.push_back(completion->id());
    }
  }
}

void Scheduler::AdaptOne() {
  bool adapted = false;
  while (!adapted && !due_.empty()) {
    const auto begun = Clock::now();
    const uint64_t id = due_.front();
    due_.pop_front();
    adapted = Adapt(id);
    if (!adapted) continue;
    stats_.adaptations += 1;
    stats_.longest_adaptation_s = std::max(stats_.longest_adaptation_s, SecondsSince(begun));
  }
}

bool Scheduler::Adapt(uint64_t id) {
  const auto completion = std::ranges::find(completions_, id, &Completion::id);
  if (completion != completions_.end()) {
    if (!(*completion)->WantsAdaptation()) return false;  // the kill switch came first
    Guard(**completion, [&] { return (*completion)->Adapt(); });
    return true;
  }
  const auto learning = std::ranges::find(learning_, id, &Learning::id);
  if (learning == learning_.end()) return false;
  const auto [_, task, cancelled] = std::move(*learning);
  learning_.erase(learning);
  Result<LearnTask::Done> done = cancelled ? Result<LearnTask::Done>(CancelledLearning()) : Learn(task);
  compute_.hook.ClearStatus();
  end_([&, on_done = task.on_done] {
    if (on_done) on_done(std::move(done));
  });
  return !cancelled;
}

Result<LearnTask::Done> Scheduler::Learn(const LearnTask& task) {
  const auto begun = Clock::now();
  OnlineReroutingOptions options{.rerouting = task.rerouting};
  if (task.binding.session) options.start = *task.binding.session;
  const uint32_t slot = compute_.router.AddSlot(task.binding);
  Result<OnlineRerouting::Fed> fed = OnlineRerouting::Fed{};
  LearnTask::Done done;
  try {
    OnlineRerouting rerouting(compute_.model, compute_.router, compute_.hook, slot, std::move(options));
    fed = rerouting.Feed(task.context);
    done.vectors = rerouting.vectors();
  } catch (const std::exception& exception) {
    fed = Failed(exception);
  }
  compute_.router.ReleaseSlot(slot);
  if (!fed.ok()) return fed.error();
  done.loss_before = fed.value().loss_before;
  done.loss_after = fed.value().loss_after;
  done.kept = fed.value().kept;
  done.seconds = SecondsSince(begun);
  return done;
}

void Scheduler::RunStep() {
  std::vector<MoeModel::RowSegment> segments;
  std::vector<Completion*> owners;
  int64_t prompt_rows = options_.prefill_tokens;
  uint64_t decoding = 0;
  bool trace = false;
  for (const auto& completion : completions_) {
    if (completion->ended() || completion->WantsAdaptation()) continue;
    const int64_t unread = completion->unread(), rows = unread == 1 ? 1 : std::min(unread, prompt_rows);
    if (rows == 0) continue;
    if (unread > 1) prompt_rows -= rows;
    segments.push_back(completion->Next(rows));
    owners.push_back(completion.get());
    trace = trace || (completion->wants_trace() && segments.back().wants_logits);
    const bool decodes = completion->decoding() && unread == 1;
    decoding += decodes;
    if (!decodes) stats_.prompt_tokens += static_cast<uint64_t>(rows);
  }
  if (segments.empty()) return;
  std::vector<PassResult> results = RunPass(compute_, segments, trace);
  stats_.steps += 1;
  if (decoding > 0) batch_.Add(ThisSecond(), static_cast<double>(decoding));
  for (size_t i = 0; i < owners.size(); ++i) {
    const size_t said = owners[i]->said();
    Guard(*owners[i], [&] { return owners[i]->Accept(std::move(results[i])); });
    stats_.generated_tokens += owners[i]->said() - said;
  }
}

void Scheduler::Guard(Completion& completion, const std::function<Status()>& action) {
  try {
    if (const Status status = action(); !status.ok()) completion.Fail(status.error());
  } catch (const std::exception& exception) {
    completion.Fail(Failed(exception));
  }
  compute_.hook.ClearStatus();
}

void Scheduler::EndFinished() {
  const auto ended = std::stable_partition(completions_.begin(), completions_.end(),
                                           [](const auto& completion) { return !completion->ended(); });
  std::vector<std::unique_ptr<Completion>> gone(std::make_move_iterator(ended),
                                                std::make_move_iterator(completions_.end()));
  completions_.erase(ended, completions_.end());
  for (std::unique_ptr<Completion>& completion : gone) {
    end_([&] { completion->Report(); });
    completion.reset();
  }
}

}  // namespace pointsman
