#include "indexer/tasks/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "indexer/tasks/supervisor.h"

namespace pointsman {
namespace {

constexpr size_t kOutputBytes = 4096;
constexpr double kGraceSeconds = 10;  // beyond the limit, for a supervisor that does not answer

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { Close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  void Reset(int fd) {
    Close();
    fd_ = fd;
  }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd read, write;
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read.Reset(ends[0]);
    write.Reset(ends[1]);
    return true;
  }
};

// A directory that goes with the object; only without isolation is one needed.
class WorkDirectory {
 public:
  bool Make() {
    std::error_code failure;
    std::string pattern = (std::filesystem::temp_directory_path(failure) / "pointsman_task_XXXXXX").string();
    if (failure || mkdtemp(pattern.data()) == nullptr) return false;
    path_ = pattern;
    return true;
  }
  ~WorkDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

bool WriteTo(const std::string& path, const std::string& text) {
  const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd.get() >= 0 && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Inside, the command is kSandboxUser; outside, an ordinary caller itself, and kSandboxUser where the caller is root.
bool MapUser(pid_t pid) {
  const std::string proc = fmt::format("/proc/{}/", pid);
  const bool root = geteuid() == 0;
  if (!root && !WriteTo(proc + "setgroups", "deny")) return false;
  const auto user = root ? static_cast<uid_t>(kSandboxUser) : geteuid();
  const auto group = root ? static_cast<gid_t>(kSandboxUser) : getegid();
  return WriteTo(proc + "gid_map", fmt::format("{} {} 1\n", kSandboxUser, group)) &&
         WriteTo(proc + "uid_map", fmt::format("{} {} 1\n", kSandboxUser, user));
}

class Run {
 public:
  Run(const std::string& command, std::span<const SandboxFile> files, const SandboxLimits& limits, bool isolated)
      : limits_(limits) {
    plan_.isolated = isolated;
    plan_.command = command.c_str();
    for (const SandboxFile& file : files) {
      files_.push_back({file.name.c_str(), file.content.data(), file.content.size()});
    }
    plan_.files = files_.data();
    plan_.file_count = files_.size();
    plan_.seconds = limits.seconds;
    plan_.memory_bytes = limits.memory_bytes;
    plan_.file_bytes = limits.file_bytes;
    plan_.processes = limits.processes;
    plan_.open_files = limits.open_files;
  }

  Result<SandboxOutcome> Go() {
    directory_ = "/tmp/work";
    if (!plan_.isolated) {
      if (!work_.Make()) return Failed("make a temporary directory", errno);
      directory_ = work_.path();
    }
    plan_.directory = directory_.c_str();
    tmp_options_ = fmt::format("size={},nr_inodes=4096,mode=01777", limits_.file_bytes);
    plan_.tmp_options = tmp_options_.c_str();
    PrepareEnvironment();
    if (!ready_.Open() || !output_.Open() || !status_.Open()) return Failed("open a pipe", errno);
    fcntl(output_.read.get(), F_SETFL, O_NONBLOCK);
    plan_.ready_fd = ready_.read.get();
    plan_.output_fd = output_.write.get();
    plan_.status_fd = status_.write.get();
    const long spaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    const auto pid = static_cast<pid_t>(syscall(SYS_clone, (plan_.isolated ? spaces : 0) | SIGCHLD, 0, 0, 0, 0));
    if (pid < 0) return Failed("make namespaces", errno);
    if (pid == 0) Supervise(plan_);
    output_.write.Close();
    status_.write.Close();
    const char ready = !plan_.isolated || MapUser(pid) ? '+' : '-';
    (void)!write(ready_.write.get(), &ready, 1);
    const std::optional<SupervisorStatus> status = Wait();
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    TakeOutput();
    return Outcome(status);
  }

 private:
  Error Failed(const char* step, int number) const {
    const std::string what = fmt::format("could not {} ({})", step, std::strerror(number));
    if (!plan_.isolated) return {ErrorCode::kIo, "the test command did not start: " + what};
    return {ErrorCode::kUnsupported, "this machine does not isolate the test command: " + what};
  }

  void PrepareEnvironment() {
    const char* path = std::getenv("PATH");
    variables_ = {fmt::format("PATH={}", path ? path : "/usr/local/bin:/usr/bin:/bin"), "HOME=" + directory_,
                  "TMPDIR=" + directory_, "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"};
    for (const std::string& variable : variables_) environment_.push_back(variable.c_str());
    environment_.push_back(nullptr);
    plan_.environment = environment_.data();
  }

  void TakeOutput() {
    char buffer[16384];
    ssize_t size = 0;
    while ((size = read(output_.read.get(), buffer, sizeof buffer)) > 0) {
      text_.append(buffer, static_cast<size_t>(size));
      if (text_.size() > 2 * kOutputBytes) text_.erase(0, text_.size() - kOutputBytes);
    }
    if (size == 0) output_.read.Close();
  }

  // The supervisor's word; none if it was killed or does not answer.
  std::optional<SupervisorStatus> Wait() {
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(limits_.seconds + kGraceSeconds);
    for (;;) {
      pollfd waits[] = {{status_.read.get(), POLLIN, 0}, {output_.read.get(), POLLIN, 0}};
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      if (left.count() <= 0) return std::nullopt;
      if (poll(waits, 2, static_cast<int>(std::min<int64_t>(left.count(), 60'000))) < 0 && errno != EINTR) {
        return std::nullopt;
      }
      if (waits[1].revents != 0) TakeOutput();
      if (waits[0].revents == 0) continue;
      SupervisorStatus status;
      if (read(status_.read.get(), &status, sizeof status) != sizeof status) return std::nullopt;
      return status;
    }
  }

  Result<SandboxOutcome> Outcome(const std::optional<SupervisorStatus>& status) {
    SandboxOutcome outcome;
    if (text_.size() > kOutputBytes) text_.erase(0, text_.size() - kOutputBytes);
    outcome.output = std::move(text_);
    if (!status) {
      outcome.end = SandboxEnd::kSignaled;
      outcome.code = SIGKILL;
    } else if (status->kind == SupervisorStatus::kFailed) {
      return Failed(status->step, status->error);
    } else if (status->kind == SupervisorStatus::kTimedOut) {
      outcome.end = SandboxEnd::kTimedOut;
    } else if (WIFSIGNALED(status->wait_status)) {
      outcome.end = SandboxEnd::kSignaled;
      outcome.code = WTERMSIG(status->wait_status);
    } else {
      outcome.code = WEXITSTATUS(status->wait_status);
    }
    return outcome;
  }

  const SandboxLimits& limits_;
  SupervisorPlan plan_;
  std::vector<PreparedFile> files_;
  WorkDirectory work_;
  std::string directory_, tmp_options_, text_;
  std::vector<std::string> variables_;
  std::vector<const char*> environment_;
  Pipe ready_, output_, status_;
};

}  // namespace

Result<SandboxOutcome> RunSandboxed(const std::string& command, std::span<const SandboxFile> files,
                                    const SandboxLimits& limits, bool isolated) {
  for (const SandboxFile& file : files) {
    if (file.name.empty() || file.name.starts_with('.') || file.name.find('/') != std::string::npos) {
      return Error{ErrorCode::kInvalidArgument, "'" + file.name + "': not a plain file name for the sandbox"};
    }
  }
  return Run(command, files, limits, isolated).Go();
}

}  // namespace pointsman
