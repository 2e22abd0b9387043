#include "daemon/jobs/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "memory/file_layer.h"

namespace pointsman {
namespace {

constexpr long kSysCloseRange = 436;  // the same on every architecture; older headers lack it

// What the child needs, made before it is: between vfork and exec it may not allocate.
struct Plan {
  const char* executable = nullptr;
  const char* directory = nullptr;  // null: stay
  char* const* arguments = nullptr;
  char* const* environment = nullptr;
  const char* oom_score_adj = nullptr;
  size_t oom_score_adj_size = 0;
  int nothing = -1, output = -1, messages = -1;
  int niceness = 0;
  uint64_t address_space_bytes = 0;
  pid_t parent = 0;
  volatile int failed = 0;  // errno of the child: its memory is ours until exec
};

[[noreturn]] void Become(Plan& plan) {
  for (int number = 1; number < NSIG; ++number) {
    if (number != SIGKILL && number != SIGSTOP) signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != plan.parent) _exit(127);  // the server ended before the line above
  errno = 0;
  const int niceness = getpriority(PRIO_PROCESS, 0);
  if (errno == 0) setpriority(PRIO_PROCESS, 0, niceness + plan.niceness);
  if (const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0) {
    (void)!write(fd, plan.oom_score_adj, plan.oom_score_adj_size);
    close(fd);
  }
  if (plan.directory && chdir(plan.directory) != 0) {
    plan.failed = errno;
    _exit(127);
  }
  if (plan.address_space_bytes > 0) {
    const rlimit limit{plan.address_space_bytes, plan.address_space_bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0) {
      plan.failed = errno;
      _exit(127);
    }
  }
  if (dup2(plan.nothing, 0) < 0 || dup2(plan.output, 1) < 0 || dup2(plan.messages, 2) < 0) {
    plan.failed = errno;
    _exit(127);
  }
  if (syscall(kSysCloseRange, 3, ~0u, 0) != 0) {
    for (int fd = 3; fd < 65536; ++fd) close(fd);
  }
  execve(plan.executable, plan.arguments, plan.environment);
  plan.failed = errno;
  _exit(127);
}

// vfork, not fork: copying the page tables of a loaded model holds up serving, and its writes fault afterwards.
__attribute__((noinline)) pid_t Spawn(Plan& plan) {
  const pid_t pid = vfork();
  if (pid == 0) Become(plan);
  return pid;
}

// Closes on every way out.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  void Set(int fd) { fd_ = fd; }

 private:
  int fd_ = -1;
};

Status MakePipe(Descriptor& ours, Descriptor& childs) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("a pipe", "make", errno);
  ours.Set(ends[0]);
  childs.Set(ends[1]);
  if (fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) return ErrnoError("a pipe", "set up", errno);
  if (ends[0] <= 2 || ends[1] <= 2) {
    return Error{ErrorCode::kIo, "standard input, output or error of the server is closed: open them on /dev/null"};
  }
  return {};
}

// The words as execve wants them, borrowed.
std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Result<ChildProcess> ChildProcess::Start(const ChildOptions& options) {
  Descriptor nothing(open("/dev/null", O_RDONLY | O_CLOEXEC)), output, childs_output, messages, childs_messages;
  if (nothing.get() < 0) return ErrnoError("/dev/null", "open", errno);
  POINTSMAN_CHECK_OK(MakePipe(output, childs_output));
  POINTSMAN_CHECK_OK(MakePipe(messages, childs_messages));
  std::vector<std::string> words = {options.executable.filename().string()}, environment = options.environment;
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  const std::vector<char*> arguments = Pointers(words), variables = Pointers(environment);
  const std::string score = std::to_string(options.oom_score_adj);
  Plan plan;
  plan.executable = options.executable.c_str();
  plan.directory = options.directory.empty() ? nullptr : options.directory.c_str();
  plan.arguments = arguments.data();
  plan.environment = variables.data();
  plan.oom_score_adj = score.data();
  plan.oom_score_adj_size = score.size();
  plan.nothing = nothing.get();
  plan.output = childs_output.get();
  plan.messages = childs_messages.get();
  plan.niceness = options.niceness;
  plan.address_space_bytes = options.address_space_bytes;
  plan.parent = getpid();

  sigset_t all, before;  // no handler of the server may run in the child while they share their memory
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = Spawn(plan);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return ErrnoError(options.executable, "start", error);
  if (plan.failed != 0) {
    waitpid(pid, nullptr, 0);
    return ErrnoError(options.executable, "start", plan.failed);
  }
  return ChildProcess(pid, output.Release(), messages.Release());
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::exchange(other.output_, -1)),
      messages_(std::exchange(other.messages_, -1)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(output_, other.output_);
  std::swap(messages_, other.messages_);
  return *this;
}

ChildProcess::~ChildProcess() {
  CloseOutput();
  CloseMessages();
  if (pid_ < 0) return;
  Signal(SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void ChildProcess::CloseOutput() {
  if (output_ >= 0) close(std::exchange(output_, -1));
}

void ChildProcess::CloseMessages() {
  if (messages_ >= 0) close(std::exchange(messages_, -1));
}

void ChildProcess::Signal(int number) const {
  if (pid_ > 0) kill(-pid_, number);
}

std::optional<int> ChildProcess::TryWait() {
  if (pid_ < 0) return std::nullopt;
  siginfo_t info{};
  if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
    return std::nullopt;
  }
  // Not collected yet, so the group's number is still its own.
  kill(-pid_, SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

std::optional<uint64_t> ProcessStartTicks(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const size_t name_ends = text.rfind(')');  // of "PID (NAME) STATE ...": a name may hold anything
  if (name_ends == std::string::npos || name_ends + 2 >= text.size()) return std::nullopt;
  const char state = text[name_ends + 2];
  if (state == 'Z' || state == 'X') return std::nullopt;
  size_t at = name_ends + 2;
  for (int field = 3; field < 22 && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  if (at == std::string::npos) return std::nullopt;
  return std::strtoull(text.c_str() + at, nullptr, 10);
}

std::vector<std::string> EnvironmentForJobs() {
  std::vector<std::string> kept;
  for (char** variable = environ; *variable; ++variable) {
    if (!std::string_view(*variable).starts_with("POINTSMAN_")) kept.emplace_back(*variable);
  }
  return kept;
}

}  // namespace pointsman
