// Long work as child processes of the `pointsman` command (build, eval, docs add), so that what they use or break never
// touches serving. Each job has a directory under STATE/jobs: job.json (what it is and how it ended), stdout, stderr.
//
// After a restart of the server, jobs that were running are started again if their command can resume, else they are
// `failed` with that reason. Finished jobs are kept (`keep`, newest first). Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/log.h"
#include "memory/result.h"

namespace pointsman {

enum class JobState : uint8_t { kQueued, kRunning, kDone, kFailed, kCancelled };
const char* JobStateName(JobState state);  // "queued", "running", "done", "failed", "cancelled"

struct JobSpec {
  std::string kind;                    // "build", "eval", "documents"
  std::vector<std::string> arguments;  // of the pointsman command, without its name
  std::string owner;                   // Principal::name
  std::string memory;                  // id that it makes or changes; empty: none
  bool resumable = false;              // may be started again with --resume
};

struct JobProgress {
  std::string stage;  // "train prototypes"
  double share = 0;   // of the stage, 0..1; 0 when unknown
  double rows_per_s = 0;
  double eta_s = 0;  // of the stage; 0 when unknown
  std::string line;  // the last line of stderr
};

struct Job {
  std::string id;  // "job_" and 16 hex digits
  JobSpec spec;
  JobState state = JobState::kQueued;
  int64_t created_unix_s = 0, started_unix_s = 0, ended_unix_s = 0;
  int exit_status = 0;
  std::string error;   // for kFailed: the last lines of stderr
  std::string result;  // for kDone: the command's JSON
  JobProgress progress;
  uint64_t revision = 0;  // grows with every change: for waiting
};

struct JobRunnerOptions {
  std::filesystem::path state;    // STATE; jobs/ is made below it
  std::filesystem::path command;  // the pointsman binary
  uint32_t running = 1;           // at once
  uint32_t queued = 16;           // more are refused (kBusy)
  uint32_t keep = 100;
  int nice = 10;  // of the children
};

class JobRunner {
 public:
  static Result<std::unique_ptr<JobRunner>> Start(JobRunnerOptions options, Log& log);
  ~JobRunner();  // leaves nothing running: children get SIGTERM, then SIGKILL; resumable ones go on at the next start

  Result<Job> Submit(JobSpec spec);  // kBusy
  Result<Job> Find(const std::string& id) const;
  std::vector<Job> All() const;  // newest first
  Status Cancel(const std::string& id);
  // Called on the runner's thread after every change of any job; quick. Returns a token for Unsubscribe.
  uint64_t Subscribe(std::function<void(const Job&)> listener);
  void Unsubscribe(uint64_t token);

 private:
  struct Impl;
  explicit JobRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
