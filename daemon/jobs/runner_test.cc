#include "daemon/jobs/runner.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <iterator>
#include <thread>

#include "daemon/jobs/child_process.h"

namespace pointsman {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string Content(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void Write(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

bool Eventually(const std::function<bool()>& true_at_last) {
  for (int i = 0; i < 1000; ++i) {
    if (true_at_last()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

// Jobs are scripts of the shell, which stands where the pointsman command is otherwise.
class Jobs : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("jobs_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    options_.directory = folder_ / "jobs";
    options_.executable = "/bin/sh";
    options_.grace_ms = 500;
  }
  void Start() {
    auto started = JobRunner::Start(options_);
    ASSERT_TRUE(started.ok()) << started.error().message;
    runner_ = std::move(started).value();
  }
  static JobSpec Script(const std::string& text, const std::string& target = "") {
    JobSpec spec;
    spec.id = JobRunner::NewId();
    spec.kind = "build";
    spec.arguments = {"-c", text};
    spec.target = target;
    spec.principal = "tester";
    return spec;
  }
  std::string Submit(const std::string& script) {
    const auto job = runner_->Submit(Script(script));
    EXPECT_TRUE(job.ok()) << job.error().message;
    return job.ok() ? job.value().id : "";
  }
  JobStatus StatusOf(const std::string& id) const {
    const auto job = runner_->Find(id);
    EXPECT_TRUE(job.ok());
    return job.ok() ? job.value().status : JobStatus::kFailed;
  }
  JobRecord Ended(const std::string& id) const {
    EXPECT_TRUE(Eventually([&] { return HasEnded(StatusOf(id)); }));
    return runner_->Find(id).value();
  }
  json OnDisk(const std::string& id) const { return json::parse(Content(options_.directory / id / "job.json")); }

  std::filesystem::path folder_;
  JobRunnerOptions options_;
  std::unique_ptr<JobRunner> runner_;
};

TEST_F(Jobs, AJobRunsTellsItsProgressAndLeavesItsResult) {
  std::atomic<int> taken_over{0}, ended{0}, changes{0};
  options_.on_success["build"] = [&](const JobRecord& job) -> Status {
    taken_over = job.status == JobStatus::kSucceeded && runner_->Find(job.id).value().status == JobStatus::kRunning;
    return {};
  };
  options_.on_ended = [&](const JobRecord&) { ++ended; };
  Start();
  JobSpec spec = Script("");
  const std::filesystem::path uploads = options_.directory / spec.id / JobRunner::kUploads, go = folder_ / "go";
  spec.arguments[1] = "while [ ! -e " + go.string() + " ]; do sleep 0.02; done; " +
                      R"sh(printf '{"text": "%s"}' "$(cat uploads/000001.txt)")sh";
  spec.arguments[1].insert(0,
                           R"sh(echo '{"stage":"capture","done":5,"total":10,"rows_per_s":2.5,"eta_s":2.0}' >&2; )sh");
  spec.uploads = {{"000001.txt", "what came along"}};
  const uint64_t watch = runner_->Watch(spec.id, [&] { ++changes; });
  const std::string id = spec.id;
  const auto job = runner_->Submit(std::move(spec));
  ASSERT_TRUE(job.ok()) << job.error().message;
  EXPECT_EQ(job.value().status, JobStatus::kQueued);
  ASSERT_TRUE(Eventually([&] { return runner_->Find(id).value().progress.has_value(); }));
  const JobRecord running = runner_->Find(id).value();
  EXPECT_EQ(running.status, JobStatus::kRunning);
  EXPECT_EQ(running.progress->stage, "capture");
  EXPECT_EQ(running.progress->total, 10u);
  EXPECT_EQ(OnDisk(id)["status"], "running");
  EXPECT_EQ(OnDisk(id)["pid"], running.pid);
  EXPECT_EQ(ended, 0);
  Write(go, "");
  const JobRecord done = Ended(id);
  EXPECT_EQ(done.status, JobStatus::kSucceeded) << done.error;
  EXPECT_EQ((*done.result)["text"], "what came along");
  EXPECT_GE(done.finished, done.created);
  EXPECT_EQ(taken_over, 1) << "before it is told to have succeeded";
  EXPECT_EQ(ended, 1);
  EXPECT_GE(changes, 3);
  runner_->Unwatch(watch);
  EXPECT_FALSE(std::filesystem::exists(uploads));
  EXPECT_EQ(OnDisk(id)["status"], "succeeded");
  EXPECT_EQ(runner_->Counts(), (std::map<JobStatus, uint64_t>{{JobStatus::kSucceeded, 1}}));
}

TEST_F(Jobs, EveryWayToFailIsNamed) {
  options_.result_bytes = 1000;
  Start();
  const struct {
    const char* script;
    const char* error;
    bool has_result;
  } cases[] = {
      {"echo 'pointsman: /c: no such corpus' >&2; exit 1", "/c: no such corpus", false},
      {"exit 1", "status 1 and said nothing", false},
      {"echo 'pointsman: --kind' >&2; exit 2", "wrong use: --kind", false},
      {"echo '{\"verdict\": 1}'; exit 3", "requirement", true},
      {"kill -9 $$", "signal 9 (out of memory?): give the server more memory", false},
      {"echo last words >&2; kill -6 $$", "signal 6; it last said: last words", false},
      {"echo \"pointsman: internal error: std::bad_alloc\" >&2; exit 1", "out of memory: give the server", false},
      {"echo no json", "not JSON", false},
      {"head -c 2000 /dev/zero", "larger than 1000 bytes", false},
  };
  for (const auto& one : cases) {
    const JobRecord job = Ended(Submit(one.script));
    EXPECT_EQ(job.status, JobStatus::kFailed) << one.script;
    EXPECT_THAT(job.error, HasSubstr(one.error)) << one.script;
    EXPECT_EQ(job.result != nullptr, one.has_result) << one.script;
  }
}

TEST_F(Jobs, AnErrorOfTheTakeOverFailsTheJob) {
  options_.on_success["build"] = [](const JobRecord&) -> Status { return Error{ErrorCode::kIo, "generation 2"}; };
  Start();
  const JobRecord job = Ended(Submit("echo '{}'"));
  EXPECT_EQ(job.status, JobStatus::kFailed);
  EXPECT_THAT(job.error, HasSubstr("could not take it over: generation 2"));
}

TEST_F(Jobs, AProgramThatIsNotThereFailsTheJobNotTheServer) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "TSan runs vfork as fork: the child's reason does not reach its parent's memory";
#endif
  options_.executable = folder_ / "absent";
  Start();
  const JobRecord job = Ended(Submit("true"));
  EXPECT_EQ(job.status, JobStatus::kFailed);
  EXPECT_THAT(job.error, HasSubstr("absent"));
}

TEST_F(Jobs, TheQueueIsBoundedAndInOrder) {
  options_.queued = 2;
  Start();
  const std::filesystem::path go = folder_ / "go", order = folder_ / "order";
  const auto script = [&](int n) {
    return "while [ ! -e " + go.string() + " ]; do sleep 0.02; done; echo " + std::to_string(n) + " >> " +
           order.string() + "; echo '{}'";
  };
  std::vector<std::string> ids;
  for (int n = 0; n < 3; ++n) ids.push_back(Submit(script(n)));
  const auto refused = runner_->Submit(Script("true"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_EQ(StatusOf(ids[2]), JobStatus::kQueued);
  EXPECT_EQ(runner_->List().front().id, ids[2]);
  Write(go, "");
  for (const std::string& id : ids) EXPECT_EQ(Ended(id).status, JobStatus::kSucceeded);
  EXPECT_EQ(Content(order), "0\n1\n2\n");
  EXPECT_TRUE(runner_->Submit(Script("echo '{}'")).ok());
}

TEST_F(Jobs, JobsOfOneTargetRunOneAfterAnother) {
  options_.running = 2;
  Start();
  const std::string stop = (folder_ / "stop").string();
  const std::string script = "while [ ! -e " + stop + " ]; do sleep 0.02; done; echo '{}'";
  const auto first = runner_->Submit(Script(script, "/memories/a"));
  const auto second = runner_->Submit(Script(script, "/memories/a"));
  const auto other = runner_->Submit(Script(script, "/memories/b"));
  ASSERT_TRUE(first.ok() && second.ok() && other.ok());
  EXPECT_TRUE(Eventually([&] {
    return StatusOf(first.value().id) == JobStatus::kRunning && StatusOf(other.value().id) == JobStatus::kRunning;
  }));
  EXPECT_EQ(StatusOf(second.value().id), JobStatus::kQueued);
  JobSpec alone = Script("true", "/memories/a");
  alone.only_one = true;
  const auto refused = runner_->Submit(alone);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  Write(stop, "");
  EXPECT_EQ(Ended(second.value().id).status, JobStatus::kSucceeded);
  alone.id = JobRunner::NewId();
  EXPECT_TRUE(runner_->Submit(alone).ok());
}

TEST_F(Jobs, CancellingStopsWhatRunsWhatWaitsAndForgetsWhatEnded) {
  Start();
  const std::filesystem::path grandchild = folder_ / "grandchild";
  // Deaf to SIGTERM, with a child of its own.
  const std::string running =
      Submit("trap '' TERM; sleep 60 & echo $! > " + grandchild.string() + "; while :; do sleep 0.1; done");
  const std::string waiting = Submit("echo '{}'");
  ASSERT_TRUE(Eventually([&] { return !Content(grandchild).empty(); }));
  const auto pid = static_cast<pid_t>(std::stoi(Content(grandchild)));
  EXPECT_TRUE(ProcessStartTicks(pid));

  EXPECT_EQ(runner_->Cancel(waiting).value().status, JobStatus::kCancelled);
  EXPECT_EQ(OnDisk(waiting)["status"], "cancelled");
  ASSERT_TRUE(runner_->Cancel(running).ok());
  const JobRecord ended = Ended(running);
  EXPECT_EQ(ended.status, JobStatus::kCancelled);
  EXPECT_EQ(ended.error, "");
  EXPECT_TRUE(Eventually([&] { return !ProcessStartTicks(pid); }));
  EXPECT_EQ(StatusOf(waiting), JobStatus::kCancelled) << "and was never started";

  EXPECT_TRUE(runner_->Cancel(running).ok());
  EXPECT_EQ(runner_->Find(running).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(options_.directory / running));
  EXPECT_EQ(runner_->Cancel(running).error().code, ErrorCode::kNotFound);
}

TEST_F(Jobs, TheChildIsKeptApart) {
  setenv("POINTSMAN_MAX_TOKENS", "7", 1);
  options_.memory_bytes = 512ull << 20;
  Start();
  const int fd = fcntl(1, F_DUPFD, 77);  // something that the child must not have
  const JobRecord job = Ended(Submit(
      R"sh(printf '{"open": %s, "oom": %s, "group": %s, "pid": %s, "limit": %s, "stdin": "%s", "option": "%s"}' \
        "$(ls /proc/$$/fd | grep -c 77)" "$(cat /proc/self/oom_score_adj)" "$(cut -d' ' -f5 /proc/$$/stat)" $$ \
        "$(ulimit -v)" "$(readlink /proc/$$/fd/0)" "$POINTSMAN_MAX_TOKENS")sh"));
  ASSERT_EQ(fd, 77);
  close(fd);
  unsetenv("POINTSMAN_MAX_TOKENS");
  ASSERT_TRUE(job.result) << job.error;
  const json& child = *job.result;
  EXPECT_EQ(child["open"], 0);
  EXPECT_EQ(child["oom"], 500);
  EXPECT_EQ(child["group"], child["pid"]);
  EXPECT_EQ(child["limit"], 512 * 1024);
  EXPECT_EQ(child["stdin"], "/dev/null");
  EXPECT_EQ(child["option"], "");
}

TEST_F(Jobs, TheChildIsNicer) {
  Start();
  const JobRecord job = Ended(Submit("nice"));
  ASSERT_TRUE(job.result) << job.error;  // a number is JSON
  EXPECT_EQ(job.result->get<int>(), std::min(19, getpriority(PRIO_PROCESS, 0) + ChildOptions().niceness));
}

TEST_F(Jobs, WhatTheServersEndInterruptsGoesOnAtTheNextStart) {
  const std::filesystem::path before = folder_ / "before";
  Start();
  const std::string id = Submit("if [ -e " + before.string() + " ]; then echo '{\"resumed\": true}'; else touch " +
                                before.string() + "; sleep 60; fi");
  const std::string queued = Submit("echo '{}'");
  std::atomic<int> told{0};
  runner_->Watch(id, [&] { ++told; });
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(before); }));
  const int told_before = told;
  runner_->Stop();
  EXPECT_TRUE(runner_->stopped());
  EXPECT_GT(told, told_before);
  EXPECT_EQ(runner_->Find(id).value().status, JobStatus::kInterrupted);
  EXPECT_EQ(OnDisk(id)["status"], "interrupted");
  EXPECT_EQ(runner_->Submit(Script("true")).error().code, ErrorCode::kBusy);
  runner_.reset();
  Start();
  EXPECT_EQ((*Ended(id).result)["resumed"], true);
  EXPECT_EQ(Ended(id).attempts, 1u);
  EXPECT_EQ(Ended(queued).status, JobStatus::kSucceeded);
  EXPECT_LT(runner_->Find(id).value().sequence, runner_->Find(queued).value().sequence);
}

TEST_F(Jobs, AKilledServerTakesItsJobsWithItAndTheNextOneGoesOn) {
  const std::filesystem::path began = folder_ / "began", note = folder_ / "note";
  JobSpec spec = Script("if [ -s " + began.string() + " ]; then echo '{\"resumed\": true}'; else echo $$ > " +
                        began.string() + "; exec sleep 60; fi");
  const std::string id = spec.id;
  const pid_t server = fork();
  ASSERT_GE(server, 0);
  if (server == 0) {
    auto started = JobRunner::Start(options_);
    if (started.ok() && started.value()->Submit(std::move(spec)).ok()) pause();
    _exit(1);
  }
  EXPECT_TRUE(Eventually([&] { return !Content(began).empty(); }));
  const auto child = static_cast<pid_t>(std::stoi(Content(began)));
  EXPECT_TRUE(ProcessStartTicks(child));
  EXPECT_TRUE(Eventually([&] { return OnDisk(id)["status"] == "running"; }));
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return !ProcessStartTicks(child); }));
  Start();
  const JobRecord job = Ended(id);
  EXPECT_EQ((*job.result)["resumed"], true);
  EXPECT_EQ(job.attempts, 2u);
}

TEST_F(Jobs, AJobThatTakesTheServerDownIsGivenUp) {
  JobRecord job{.id = "job-0123456789abcdef", .kind = "build"};
  job.arguments = {"-c", "touch " + (folder_ / "ran").string()};
  job.status = JobStatus::kRunning;
  job.attempts = 3;
  std::filesystem::create_directories(options_.directory / job.id);
  Write(options_.directory / job.id / "job.json", SerializeJob(job));
  Start();
  const JobRecord given_up = Ended(job.id);
  EXPECT_EQ(given_up.status, JobStatus::kFailed);
  EXPECT_THAT(given_up.error, HasSubstr("ended 3 times"));
  EXPECT_EQ(OnDisk(job.id)["status"], "failed");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "ran"));
}

TEST_F(Jobs, WhatIsNotWholeOnDiskIsSaidAndLeftAlone) {
  const std::filesystem::path damaged = options_.directory / "job-0000000000000001",
                              unfinished = options_.directory / "job-0000000000000002",
                              other = options_.directory / "notes";
  for (const auto& directory : {damaged, unfinished, other}) std::filesystem::create_directories(directory);
  Write(damaged / "job.json", "{\"version\": 1");
  Write(unfinished / "upload", "x");
  std::vector<std::string> problems;
  options_.on_problem = [&](const std::string& text) { problems.push_back(text); };
  Start();
  EXPECT_TRUE(runner_->List().empty());
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_THAT(problems[0], HasSubstr("damaged"));
  EXPECT_TRUE(std::filesystem::exists(damaged / "job.json"));
  EXPECT_TRUE(std::filesystem::exists(other));
  EXPECT_FALSE(std::filesystem::exists(unfinished)) << "nobody was told of it";
}

TEST_F(Jobs, OneServerADirectoryAndNobodyElse) {
  Start();
  EXPECT_EQ(std::filesystem::status(options_.directory).permissions(), std::filesystem::perms::owner_all);
  const auto second = JobRunner::Start(options_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  EXPECT_THAT(second.error().message, HasSubstr("--jobs"));
}

TEST_F(Jobs, EndedJobsAreKeptUpToANumber) {
  options_.kept = 2;
  Start();
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) {
    ids.push_back(Submit("echo '{}'"));
    Ended(ids.back());
  }
  ASSERT_TRUE(Eventually([&] { return runner_->List().size() == 2; }));
  EXPECT_EQ(runner_->List()[0].id, ids[3]);
  EXPECT_EQ(runner_->List()[1].id, ids[2]);
  EXPECT_TRUE(Eventually([&] { return !std::filesystem::exists(options_.directory / ids[1]); }));
}

}  // namespace
}  // namespace pointsman
