// Runs jobs, a few at a time and the rest in a queue, as child processes: a build that runs out of memory never takes
// the server with it. Every job has a directory, so that jobs outlive the server: what it stops, or what dies with it,
// goes on at its next start (the command's own --resume says how far).
//
//   DIR/LOCK                 one server at a time
//   DIR/job-.../job.json     the job, replaced whole at every change of status
//   DIR/job-.../uploads/     texts that came with it, under names that the server chose; removed after success
//
//   POINTSMAN_TRY(auto jobs, JobRunner::Start(options));
//   JobSpec spec{.id = JobRunner::NewId(), .kind = "build", ...};
//   POINTSMAN_TRY(const JobRecord job, jobs->Submit(std::move(spec)));
//
// Any thread. One thread of its own starts, reads and collects the children.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/jobs/job.h"
#include "daemon/jobs/job_files.h"
#include "memory/result.h"

namespace pointsman {

struct JobSpec {
  std::string id;  // of NewId()
  std::string kind;
  std::vector<std::string> arguments = {};
  bool only_one = false;                                 // refused while a job that has not ended has the same target
  std::string memory = {}, target = {}, principal = {};  // as in JobRecord
  JobFiles::Uploads uploads = {};
};

struct JobRunnerOptions {
  std::filesystem::path directory;   // made if it is not there
  std::filesystem::path executable;  // whose arguments the jobs have
  uint32_t running = 1;              // at once
  uint32_t queued = 8;               // beside them
  uint32_t kept = 64;                // ended jobs; the one that ended first goes first
  uint32_t attempts = 3;             // a job with which the server died so often is not started again
  uint64_t memory_bytes = 0;         // address space of a child (RLIMIT_AS); 0 = no limit
  uint64_t result_bytes = 4 << 20;   // of a command's standard output
  uint32_t grace_ms = 5'000;         // between SIGTERM and SIGKILL
  // By kind, on the runner's thread, after the command succeeded and before the job is told to have: what the server
  // has to do then (load a new generation). An error fails the job. Seconds at most: no other job is read meanwhile.
  std::map<std::string, std::function<Status(const JobRecord&)>> on_success = {};
  std::function<void(const JobRecord&)> on_ended = {};      // metrics; on the runner's thread
  std::function<void(const std::string&)> on_problem = {};  // for the log: what no client can be told
};

class JobRunner {
 public:
  // Reads what the last server left: queued and interrupted jobs are queued again, in their old order. Errors: kBusy
  // (another server uses the directory), kIo, kNoSpace.
  static Result<std::unique_ptr<JobRunner>> Start(JobRunnerOptions options);
  ~JobRunner();  // Stop()

  static std::string NewId();
  // Where a job's uploads are, for its arguments: its working directory is its own. Relative, so that what is made of
  // them says nothing about where the server keeps its files.
  static constexpr const char* kUploads = JobFiles::kUploads;

  // Queued and on disk when it returns. Errors: kBusy (the queue is full, or the runner stops: ask again later),
  // kInvalidArgument (only_one, and there is another), kNoSpace, kIo.
  Result<JobRecord> Submit(JobSpec spec);
  Result<JobRecord> Find(const std::string& id) const;  // kNotFound
  std::vector<JobRecord> List() const;                  // newest first
  std::map<JobStatus, uint64_t> Counts() const;
  // Queued: cancelled at once. Running: SIGTERM, later SIGKILL; the job tells when it is done. Ended: forgotten, with
  // its directory. Returns the job as it is then. kNotFound.
  Result<JobRecord> Cancel(const std::string& id);

  // `changed` is called after every change of the job and when the runner stops, until Unwatch; quick, and not calling
  // back into the runner. What is to be told is read with Find, so that a slow reader misses steps but never the end.
  uint64_t Watch(const std::string& id, std::function<void()> changed);
  void Unwatch(uint64_t watch);

  // SIGTERM to the children, SIGKILL after the grace time; their jobs are interrupted. Starts nothing any more. Blocks.
  void Stop();
  bool stopped() const;

 private:
  struct Impl;
  explicit JobRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
