#include "daemon/jobs/runner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "daemon/jobs/child_messages.h"
#include "daemon/jobs/child_process.h"
#include "daemon/jobs/job_table.h"
#include "daemon/jobs/outcome.h"
#include "memory/file_layer.h"

namespace pointsman {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kTick = std::chrono::milliseconds(100);  // ended children are noticed within
constexpr auto kLeftoverWait = std::chrono::seconds(10);

int64_t Now() { return static_cast<int64_t>(std::time(nullptr)); }

// A child that runs, of the runner's thread only.
struct Running {
  Running(std::string job, ChildProcess process) : id(std::move(job)), child(std::move(process)) {}
  std::string id;
  ChildProcess child;
  ChildEnd end = {};
  ChildMessages messages = {};
  std::optional<Clock::time_point> kill_at = {};  // set once it was told to end
};

}  // namespace

struct JobRunner::Impl {
  Impl(JobRunnerOptions o, JobFiles f) : options(std::move(o)), files(std::move(f)) {}
  ~Impl() {
    if (wake_fd >= 0) close(wake_fd);
  }

  void PersistOrSay(const JobRecord& job);
  void Say(const std::string& problem) const {
    if (options.on_problem) options.on_problem(problem);
  }
  Status ReadAll();
  void ReadOne(const std::string& id);
  void Wake() const;

  // The runner's thread.
  void Loop();
  void StartWhatFits();
  void StartOne(JobRecord job);
  void WaitForNews();
  void Read(Running& run);
  bool Advance(Running& run);  // false: it is over
  void TellToEnd(Running& run);
  void End(Running& run, int status);
  void Settle(JobRecord job);  // an ended job: on disk, in the counts, told
  void DropOldest();
  void StopChildren();

  const JobRunnerOptions options;
  const JobFiles files;
  int wake_fd = -1;
  JobTable table;
  std::thread thread;
  std::atomic<bool> stopping{false}, stopped{false};
  std::vector<std::unique_ptr<Running>> running;  // of the runner's thread
  std::mutex stop_mutex;                          // one Stop at a time
};

void JobRunner::Impl::PersistOrSay(const JobRecord& job) {
  if (const Status written = files.Write(job); !written.ok()) {
    Say(fmt::format("job {}: its state could not be written: {}", job.id, written.error().message));
  }
}

void JobRunner::Impl::Wake() const {
  const uint64_t one = 1;
  (void)!write(wake_fd, &one, sizeof one);
}

Status JobRunner::Impl::ReadAll() {
  POINTSMAN_TRY(const std::vector<std::string> ids, files.Ids());
  for (const std::string& id : ids) ReadOne(id);
  return {};
}

void JobRunner::Impl::ReadOne(const std::string& id) {
  Result<std::optional<JobRecord>> read = files.Read(id);
  if (!read.ok()) return Say(read.error().message);
  if (!read.value()) return;
  JobRecord job = std::move(*read.value());
  if (!HasEnded(job.status)) {
    if (job.status == JobStatus::kRunning && job.attempts >= options.attempts) {
      job.status = JobStatus::kFailed;
      job.finished = Now();
      job.error = fmt::format("given up: the server ended {} times while this ran", job.attempts);
    } else {
      job.status = JobStatus::kQueued;
      job.started = 0;
    }
    PersistOrSay(job);
  }
  table.Restore(std::move(job));
}

void JobRunner::Impl::Loop() {
  while (!stopping) {
    StartWhatFits();
    WaitForNews();
    std::erase_if(running, [&](const std::unique_ptr<Running>& run) { return !Advance(*run); });
  }
  StopChildren();
}

void JobRunner::Impl::StartWhatFits() {
  while (running.size() < options.running && !stopping) {
    std::vector<std::string> ids;
    for (const auto& run : running) ids.push_back(run->id);
    std::optional<JobRecord> next = table.NextToStart(ids);
    if (!next) return;
    StartOne(std::move(*next));
  }
}

void JobRunner::Impl::StartOne(JobRecord job) {
  // A child of a server that was killed dies with it, but may still be giving back its memory and its files.
  const auto deadline = Clock::now() + kLeftoverWait;
  while (job.pid > 0 && ProcessStartTicks(static_cast<pid_t>(job.pid)) == job.start_ticks && Clock::now() < deadline &&
         !stopping) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (stopping) return;
  ChildOptions child;
  child.executable = options.executable;
  child.arguments = job.arguments;
  child.directory = files.DirectoryOf(job.id);
  child.environment = EnvironmentForJobs();
  child.address_space_bytes = options.memory_bytes;
  std::optional<Result<ChildProcess>> process;
  // A start takes about a millisecond.
  const std::optional<JobRecord> started = table.ChangeIfQueued(job.id, [&](JobRecord& record) {
    process.emplace(ChildProcess::Start(child));
    record.started = Now();
    record.progress.reset();
    if (process->ok()) {
      record.status = JobStatus::kRunning;
      record.pid = process->value().pid();
      record.start_ticks = ProcessStartTicks(process->value().pid()).value_or(0);
      ++record.attempts;
    } else {
      record.status = JobStatus::kFailed;
      record.finished = Now();
      record.pid = 0;
      record.error = "the command could not be started: " + process->error().message;
    }
  });
  if (!started) return;  // cancelled meanwhile
  if (!process->ok()) return Settle(*started);
  PersistOrSay(*started);
  running.push_back(std::make_unique<Running>(started->id, std::move(*process).value()));
  table.Tell(started->id);
}

// Until a child says something, time passes that matters to one, or Wake().
void JobRunner::Impl::WaitForNews() {
  std::vector<pollfd> pipes = {{.fd = wake_fd, .events = POLLIN, .revents = 0}};
  for (const auto& run : running) {
    pipes.push_back({.fd = run->child.output(), .events = POLLIN, .revents = 0});  // -1 is left out
    pipes.push_back({.fd = run->child.messages(), .events = POLLIN, .revents = 0});
  }
  const int timeout = running.empty() ? -1 : static_cast<int>(kTick.count());
  if (poll(pipes.data(), pipes.size(), timeout) > 0 && (pipes[0].revents & POLLIN) != 0) {
    uint64_t count = 0;
    (void)!read(wake_fd, &count, sizeof count);
  }
}

// What the child has said by now.
void JobRunner::Impl::Read(Running& run) {
  char buffer[16384];
  constexpr int kReadsATurn = 64;  // one child that talks without end must not keep the others waiting
  for (int i = 0; i < kReadsATurn && run.child.output() >= 0; ++i) {
    const ssize_t got = read(run.child.output(), buffer, sizeof buffer);
    if (got == 0) run.child.CloseOutput();
    if (got <= 0) break;
    if (run.end.output.size() + static_cast<size_t>(got) > options.result_bytes) {
      run.end.output_too_large = true;
      run.end.output.clear();
    }
    if (!run.end.output_too_large) run.end.output.append(buffer, static_cast<size_t>(got));
  }
  bool progressed = false;
  for (int i = 0; i < kReadsATurn && run.child.messages() >= 0; ++i) {
    const ssize_t got = read(run.child.messages(), buffer, sizeof buffer);
    if (got == 0) run.child.CloseMessages();
    if (got <= 0) break;
    progressed = run.messages.Feed({buffer, static_cast<size_t>(got)}) || progressed;
  }
  if (progressed) table.ChangeIfThere(run.id, [&](JobRecord& job) { job.progress = run.messages.progress(); });
}

void JobRunner::Impl::TellToEnd(Running& run) {
  if (run.kill_at) return;
  run.child.Signal(SIGTERM);
  run.kill_at = Clock::now() + std::chrono::milliseconds(options.grace_ms);
}

bool JobRunner::Impl::Advance(Running& run) {
  Read(run);
  if (table.IsCancelRequested(run.id)) TellToEnd(run);
  if (run.kill_at && Clock::now() >= *run.kill_at) {
    run.child.Signal(SIGKILL);
  }
  const std::optional<int> status = run.child.TryWait();
  if (!status) return true;
  Read(run);  // what it said last
  run.messages.Finish();
  End(run, *status);
  return false;
}

void JobRunner::Impl::End(Running& run, int status) {
  JobRecord job = table.Find(run.id).value();
  const bool cancelled = table.IsCancelRequested(run.id);
  run.end.status = status;
  const Outcome outcome = OutcomeOf(run.end, run.messages, options.memory_bytes, options.result_bytes);
  const bool well = outcome.error.empty();
  job.progress = run.messages.progress();
  job.result = outcome.result;
  job.error = outcome.error;
  job.status = well ? JobStatus::kSucceeded : JobStatus::kFailed;
  if (!well && run.kill_at) {  // ended because it was told to
    job.status = cancelled ? JobStatus::kCancelled : JobStatus::kInterrupted;
    job.error.clear();
    job.result.reset();
  }
  const auto then = options.on_success.find(job.kind);
  if (well && then != options.on_success.end()) {
    if (const Status done = then->second(job); !done.ok()) {
      job.status = JobStatus::kFailed;
      job.error = "done, but the server could not take it over: " + done.error().message;
    }
  }
  job.pid = 0;
  job.start_ticks = 0;
  if (job.status == JobStatus::kInterrupted) {
    job.attempts = 0;  // not the job's fault
    PersistOrSay(job);
    return table.Replace(job);
  }
  job.finished = Now();
  Settle(std::move(job));
}

void JobRunner::Impl::Settle(JobRecord job) {
  PersistOrSay(job);
  if (job.status != JobStatus::kFailed) {
    const Status removed = files.RemoveUploads(job.id);
    if (!removed.ok()) Say(removed.error().message);
  }
  if (options.on_ended) options.on_ended(job);
  table.Replace(job);
  DropOldest();
}

void JobRunner::Impl::DropOldest() {
  while (const std::optional<std::string> oldest = table.ForgetOldest(options.kept)) {
    if (const Status removed = files.Remove(*oldest); !removed.ok()) Say(removed.error().message);
  }
}

void JobRunner::Impl::StopChildren() {
  for (const auto& run : running) TellToEnd(*run);
  while (!running.empty()) {
    WaitForNews();
    std::erase_if(running, [&](const std::unique_ptr<Running>& run) { return !Advance(*run); });
  }
  stopped = true;
  table.TellAll();
}

JobRunner::JobRunner(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
JobRunner::~JobRunner() { Stop(); }

Result<std::unique_ptr<JobRunner>> JobRunner::Start(JobRunnerOptions options) {
  std::error_code error;
  for (std::filesystem::path* path : {&options.directory, &options.executable}) {  // children work elsewhere
    const std::filesystem::path absolute = std::filesystem::absolute(*path, error);
    if (error) return ErrnoError(*path, "find", error.value());
    *path = absolute;
  }
  POINTSMAN_TRY(JobFiles files, JobFiles::Open(options.directory));
  auto impl = std::make_unique<Impl>(std::move(options), std::move(files));
  POINTSMAN_CHECK_OK(impl->ReadAll());
  impl->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (impl->wake_fd < 0) return ErrnoError("an event descriptor", "make", errno);
  Impl* parts = impl.get();
  auto runner = std::unique_ptr<JobRunner>(new JobRunner(std::move(impl)));
  parts->thread = std::thread([parts] { parts->Loop(); });
  return runner;
}

void JobRunner::Stop() {
  const std::lock_guard one(impl_->stop_mutex);
  impl_->stopping = true;
  impl_->Wake();
  if (impl_->thread.joinable()) impl_->thread.join();
}

bool JobRunner::stopped() const { return impl_->stopped; }

std::string JobRunner::NewId() {
  std::random_device random;
  return fmt::format("job-{:08x}{:08x}", random(), random());
}

Result<JobRecord> JobRunner::Submit(JobSpec spec) {
  JobRecord job{.id = spec.id, .kind = spec.kind};
  job.arguments = spec.arguments;
  job.memory = spec.memory;
  job.target = spec.target;
  job.principal = spec.principal;
  job.created = Now();
  const uint64_t room = uint64_t{impl_->options.running} + impl_->options.queued;
  if (impl_->stopping) return Error{ErrorCode::kBusy, "the server is stopping"};
  POINTSMAN_CHECK_OK(impl_->table.Reserve(job, spec.only_one, room));
  Status written = impl_->files.WriteUploads(spec.id, spec.uploads);
  if (written.ok()) written = impl_->files.Write(job);
  if (!written.ok()) {
    impl_->table.Forget(job.id);
    const Status removed = impl_->files.Remove(job.id);
    if (!removed.ok()) impl_->Say(removed.error().message);
    return written.error();
  }
  impl_->table.SetReady(job.id);
  impl_->Wake();
  return job;
}

Result<JobRecord> JobRunner::Find(const std::string& id) const { return impl_->table.Find(id); }

std::vector<JobRecord> JobRunner::List() const { return impl_->table.List(); }

std::map<JobStatus, uint64_t> JobRunner::Counts() const { return impl_->table.Counts(); }

Result<JobRecord> JobRunner::Cancel(const std::string& id) {
  POINTSMAN_TRY(const JobTable::Cancellation done, impl_->table.Cancel(id, Now()));
  const JobFiles& files = impl_->files;
  switch (done.what) {
    case JobTable::Cancellation::kAsked:
      impl_->Wake();
      break;
    case JobTable::Cancellation::kForgotten:
      POINTSMAN_CHECK_OK(files.Remove(id));
      break;
    case JobTable::Cancellation::kCancelled:
      POINTSMAN_CHECK_OK(files.Write(done.job));
      POINTSMAN_CHECK_OK(files.RemoveUploads(id));
      if (impl_->options.on_ended) impl_->options.on_ended(done.job);
      impl_->DropOldest();
      break;
  }
  return done.job;
}

uint64_t JobRunner::Watch(const std::string& id, std::function<void()> changed) {
  return impl_->table.Watch(id, std::move(changed));
}

void JobRunner::Unwatch(uint64_t watch) { impl_->table.Unwatch(watch); }

}  // namespace pointsman
