#include "daemon/jobs/job_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace pointsman {
namespace {

Error NoSuchJob(const std::string& id) {
  return {ErrorCode::kNotFound, "job '" + id + "': there is none; GET /v1/jobs lists them"};
}

}  // namespace

void JobTable::Restore(JobRecord job) {
  const std::lock_guard guard(mutex_);
  next_sequence_ = std::max(next_sequence_, job.sequence + 1);
  const std::string id = job.id;
  jobs_[id] = {.record = std::move(job), .ready = true, .cancel_requested = false};
}

Status JobTable::Reserve(JobRecord& job, bool only_one, uint64_t room) {
  const std::lock_guard guard(mutex_);
  uint64_t open = 0;
  for (const auto& [id, other] : jobs_) {
    if (HasEnded(other.record.status)) continue;
    ++open;
    if (only_one && other.record.target == job.target) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("{} writes there already and has not ended", id)};
    }
  }
  if (open >= room) {
    return Error{ErrorCode::kBusy, fmt::format("{} jobs are running or queued, which is the most", open)};
  }
  job.sequence = next_sequence_++;
  jobs_[job.id] = {.record = job, .ready = false, .cancel_requested = false};
  return {};
}

void JobTable::SetReady(const std::string& id) {
  const std::lock_guard guard(mutex_);
  jobs_[id].ready = true;
}

void JobTable::Forget(const std::string& id) {
  const std::lock_guard guard(mutex_);
  jobs_.erase(id);
}

Result<JobRecord> JobTable::Find(const std::string& id) const {
  const std::lock_guard guard(mutex_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || !found->second.ready) return NoSuchJob(id);
  return found->second.record;
}

std::vector<JobRecord> JobTable::List() const {
  std::vector<JobRecord> list;
  {
    const std::lock_guard guard(mutex_);
    for (const auto& [id, job] : jobs_) {
      if (job.ready) list.push_back(job.record);
    }
  }
  std::sort(list.begin(), list.end(), [](const JobRecord& a, const JobRecord& b) { return a.sequence > b.sequence; });
  return list;
}

std::map<JobStatus, uint64_t> JobTable::Counts() const {
  std::map<JobStatus, uint64_t> counts;
  const std::lock_guard guard(mutex_);
  for (const auto& [id, job] : jobs_) ++counts[job.record.status];
  return counts;
}

std::optional<JobRecord> JobTable::NextToStart(const std::vector<std::string>& running) const {
  std::optional<JobRecord> next;
  const std::lock_guard guard(mutex_);
  std::set<std::string> busy;
  for (const std::string& id : running) busy.insert(jobs_.at(id).record.target);
  busy.erase("");
  for (const auto& [id, job] : jobs_) {
    const bool waits = job.ready && job.record.status == JobStatus::kQueued && !busy.contains(job.record.target);
    if (waits && (!next || job.record.sequence < next->sequence)) next = job.record;
  }
  return next;
}

std::optional<JobRecord> JobTable::ChangeIfQueued(const std::string& id, const Change& change) {
  const std::lock_guard guard(mutex_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.record.status != JobStatus::kQueued) return std::nullopt;
  change(found->second.record);
  ++found->second.record.revision;
  return found->second.record;
}

void JobTable::ChangeIfThere(const std::string& id, const Change& change) {
  const std::lock_guard guard(mutex_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  change(found->second.record);
  ++found->second.record.revision;
  Notify(id);
}

void JobTable::Replace(const JobRecord& job) {
  ChangeIfThere(job.id, [&](JobRecord& record) {
    const uint64_t revision = record.revision;
    record = job;
    record.revision = revision;
  });
}

Result<JobTable::Cancellation> JobTable::Cancel(const std::string& id, int64_t now) {
  const std::lock_guard guard(mutex_);
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || !found->second.ready) return NoSuchJob(id);
  JobRecord& record = found->second.record;
  if (record.status == JobStatus::kRunning) {
    found->second.cancel_requested = true;
    return Cancellation{.job = record, .what = Cancellation::kAsked};
  }
  Cancellation done;
  if (HasEnded(record.status)) {
    done = {.job = record, .what = Cancellation::kForgotten};
    jobs_.erase(found);
  } else {
    record.status = JobStatus::kCancelled;
    record.finished = now;
    ++record.revision;
    done = {.job = record, .what = Cancellation::kCancelled};
  }
  Notify(id);
  return done;
}

bool JobTable::IsCancelRequested(const std::string& id) const {
  const std::lock_guard guard(mutex_);
  return jobs_.at(id).cancel_requested;
}

std::optional<std::string> JobTable::ForgetOldest(uint64_t kept) {
  const std::lock_guard guard(mutex_);
  uint64_t ended = 0;
  std::pair<int64_t, uint64_t> first;
  std::string oldest;
  for (const auto& [id, job] : jobs_) {
    if (!HasEnded(job.record.status)) continue;
    const std::pair<int64_t, uint64_t> when(job.record.finished, job.record.sequence);
    if (ended++ == 0 || when < first) {
      first = when;
      oldest = id;
    }
  }
  if (ended <= kept) return std::nullopt;
  jobs_.erase(oldest);
  return oldest;
}

uint64_t JobTable::Watch(const std::string& id, std::function<void()> changed) {
  const std::lock_guard guard(mutex_);
  const uint64_t watch = next_watch_++;
  watchers_[watch] = {.id = id, .changed = std::move(changed)};
  return watch;
}

void JobTable::Unwatch(uint64_t watch) {
  const std::lock_guard guard(mutex_);
  watchers_.erase(watch);
}

void JobTable::Tell(const std::string& id) {
  const std::lock_guard guard(mutex_);
  Notify(id);
}

void JobTable::TellAll() {
  const std::lock_guard guard(mutex_);
  for (const auto& [watch, watcher] : watchers_) watcher.changed();
}

void JobTable::Notify(const std::string& id) {
  for (const auto& [watch, watcher] : watchers_) {
    if (watcher.id == id) watcher.changed();
  }
}

}  // namespace pointsman
