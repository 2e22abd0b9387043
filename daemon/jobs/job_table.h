// The jobs that a runner knows, and who watches them. In memory: what is on disk, and the children, are the runner's.
//
// Any thread. Watchers are called while the table is locked, so they must be quick and not call back.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/jobs/job.h"
#include "memory/result.h"

namespace pointsman {

class JobTable {
 public:
  using Change = std::function<void(JobRecord&)>;

  // A job of the last server, ready to be started.
  void Restore(JobRecord job);
  // Holds a place for a new job, which gets the next sequence number; it is neither shown nor started before SetReady.
  // Errors: kBusy (`room` jobs have not ended), kInvalidArgument (only_one, and another one has the same target).
  Status Reserve(JobRecord& job, bool only_one, uint64_t room);
  void SetReady(const std::string& id);
  void Forget(const std::string& id);

  Result<JobRecord> Find(const std::string& id) const;  // kNotFound
  std::vector<JobRecord> List() const;                  // newest first
  std::map<JobStatus, uint64_t> Counts() const;

  // The queued job that was submitted first, of those whose target none of `running` has.
  std::optional<JobRecord> NextToStart(const std::vector<std::string>& running) const;
  // Nobody may cancel it between the look and the change. nullopt: it is queued no more. Tells nobody.
  std::optional<JobRecord> ChangeIfQueued(const std::string& id, const Change& change);
  void ChangeIfThere(const std::string& id, const Change& change);
  void Replace(const JobRecord& job);  // all but the revision, if it is there

  struct Cancellation {
    JobRecord job;  // as it is then
    enum { kAsked, kCancelled, kForgotten } what = kAsked;
  };
  // Running: it is asked for, no more. Queued: cancelled. Ended: forgotten. kNotFound.
  Result<Cancellation> Cancel(const std::string& id, int64_t now);
  bool IsCancelRequested(const std::string& id) const;
  // Forgets the job that ended first, if more than `kept` have ended: its id.
  std::optional<std::string> ForgetOldest(uint64_t kept);

  uint64_t Watch(const std::string& id, std::function<void()> changed);
  void Unwatch(uint64_t watch);
  void Tell(const std::string& id);
  void TellAll();

 private:
  struct Job {
    JobRecord record;
    bool ready = false;  // on disk: may be started
    bool cancel_requested = false;
  };
  struct Watcher {
    std::string id;
    std::function<void()> changed;
  };

  void Notify(const std::string& id);  // REQUIRES: mutex_ held

  mutable std::mutex mutex_;  // of all below
  std::map<std::string, Job> jobs_;
  std::map<uint64_t, Watcher> watchers_;
  uint64_t next_watch_ = 1, next_sequence_ = 1;
};

}  // namespace pointsman
