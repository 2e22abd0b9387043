#include "indexer/tasks/supervisor.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <iterator>

namespace pointsman {
namespace {

// Same numbers on every architecture; older headers lack some.
constexpr long kSysCloseRange = 436, kSysOpenTree = 428, kSysMoveMount = 429, kSysMountSetattr = 442;
constexpr unsigned kRecursive = 0x8000;  // AT_RECURSIVE

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

[[noreturn]] void Tell(const SupervisorPlan& plan, const SupervisorStatus& status) {
  (void)!write(plan.status_fd, &status, sizeof status);
  _exit(0);
}

[[noreturn]] void Fail(const SupervisorPlan& plan, const char* step) {
  SupervisorStatus status;
  status.error = errno;
  strncpy(status.step, step, sizeof status.step - 1);
  Tell(plan, status);
}

void Require(const SupervisorPlan& plan, bool done, const char* step) {
  if (!done) Fail(plan, step);
}

bool WriteFile(const char* path, const char* data, size_t size) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  for (size_t done = 0; done < size;) {
    const ssize_t wrote = write(fd, data + done, size - done);
    if (wrote < 0 && errno != EINTR) return close(fd), false;
    if (wrote > 0) done += static_cast<size_t>(wrote);
  }
  return close(fd) == 0;
}

// A small /dev: the devices that only give or take bytes, and room for shared memory.
void MakeDevices(const SupervisorPlan& plan) {
  static constexpr const char* kDevices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
  int trees[std::size(kDevices)];
  for (size_t i = 0; i < std::size(kDevices); ++i) {
    trees[i] = static_cast<int>(syscall(kSysOpenTree, AT_FDCWD, kDevices[i], 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC));
  }
  Require(plan, mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=16m,mode=0755") == 0, "mount /dev");
  for (size_t i = 0; i < std::size(kDevices); ++i) {
    if (trees[i] < 0 || !WriteFile(kDevices[i], "", 0)) continue;
    syscall(kSysMoveMount, trees[i], "", AT_FDCWD, kDevices[i], 4 /* MOVE_MOUNT_F_EMPTY_PATH */);
    close(trees[i]);
  }
  mkdir("/dev/shm", 0777);
  (void)!symlink("/proc/self/fd", "/dev/fd");
  (void)!symlink("/proc/self/fd/0", "/dev/stdin");
  (void)!symlink("/proc/self/fd/1", "/dev/stdout");
  (void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

// The machine's files read-only, private places empty, an own /tmp, /proc and /dev.
void MakeFileSystem(const SupervisorPlan& plan) {
  Require(plan, mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "make the mounts private");
  mount_attr read_only{};
  read_only.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
  Require(plan, syscall(kSysMountSetattr, AT_FDCWD, "/", kRecursive, &read_only, sizeof read_only) == 0,
          "make the files read-only");
  for (const char* place : {"/home", "/root", "/run", "/var/tmp"}) {
    const bool hidden = mount("tmpfs", place, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=0755") == 0;
    Require(plan, hidden || errno == ENOENT, place);
  }
  Require(plan, mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, plan.tmp_options) == 0, "mount /tmp");
  MakeDevices(plan);
  // Inside a container the host's /proc may be partly hidden, and then a fresh one is refused: none is shown instead.
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    Require(plan, mount("tmpfs", "/proc", "tmpfs", MS_RDONLY, "size=4k") == 0, "hide /proc");
  } else {
    // The command must not become root of a namespace inside this one.
    (void)WriteFile("/proc/sys/user/max_user_namespaces", "0\n", 2);
  }
}

void Isolate(const SupervisorPlan& plan) {
  char ready = 0;
  Require(plan, read(plan.ready_fd, &ready, 1) == 1 && ready == '+', "map the user");
  syscall(SYS_setgroups, 0, nullptr);  // refused, and not needed, for ordinary users
  Require(plan, syscall(SYS_setresgid, kSandboxUser, kSandboxUser, kSandboxUser) == 0, "change the group");
  Require(plan, syscall(SYS_setresuid, kSandboxUser, kSandboxUser, kSandboxUser) == 0, "change the user");
  MakeFileSystem(plan);
  Require(plan, mkdir(plan.directory, 0755) == 0, "make the working directory");
}

// Copies of the caller's files and pipes, other sandboxes' among them, which must see their own ends close.
void CloseAllBut(int a, int b, int c) {
  int kept[] = {a, b, c};
  for (int i = 0; i < 2; ++i) {  // in order
    for (int j = 0; j < 2; ++j) {
      if (kept[j] > kept[j + 1]) {
        const int higher = kept[j];
        kept[j] = kept[j + 1];
        kept[j + 1] = higher;
      }
    }
  }
  unsigned first = 3;
  for (const int fd : kept) {
    if (static_cast<unsigned>(fd) > first) syscall(kSysCloseRange, first, static_cast<unsigned>(fd) - 1, 0);
    first = static_cast<unsigned>(fd) + 1;
  }
  syscall(kSysCloseRange, first, ~0u, 0);
}

void Limit(int resource, uint64_t value) {
  rlimit limit{value, value};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0) return;
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0 && limit.rlim_max <= value) return;
  _exit(126);
}

[[noreturn]] void RunCommand(const SupervisorPlan& plan) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int number : {SIGPIPE, SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGCHLD, SIGXFSZ}) signal(number, SIG_DFL);
  setsid();
  const int nothing = open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(plan.output_fd, 1) < 0 || dup2(plan.output_fd, 2) < 0) _exit(126);
  if (syscall(kSysCloseRange, 3, ~0u, 0) != 0) _exit(126);
  Limit(RLIMIT_CORE, 0);
  Limit(RLIMIT_CPU, static_cast<uint64_t>(plan.seconds) + 1);
  Limit(RLIMIT_FSIZE, plan.file_bytes);
  Limit(RLIMIT_NOFILE, plan.open_files);
  Limit(RLIMIT_NPROC, plan.processes);
  Limit(RLIMIT_AS, plan.memory_bytes);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(126);
  const char* arguments[] = {"sh", "-c", plan.command, nullptr};
  execve("/bin/sh", const_cast<char* const*>(arguments), const_cast<char* const*>(plan.environment));
  _exit(127);
}

// Reaps whoever ended. True once `command` has, with its status.
bool Reap(pid_t command, int* status) {
  for (;;) {
    int ended = 0;
    const pid_t pid = waitpid(-1, &ended, WNOHANG);
    if (pid == command) *status = ended;
    if (pid == command) return true;
    if (pid <= 0) return false;
  }
}

// Without namespaces: the command's process group, then whatever it left to us as its nearest living ancestor that
// asked for orphans, until there is nobody.
void KillTheRest(pid_t command) {
  const double deadline = Now() + 5;
  char path[64] = "/proc/self/task/";
  char digits[16];
  size_t n = 0;
  for (pid_t id = getpid(); id > 0; id /= 10) digits[n++] = static_cast<char>('0' + id % 10);
  size_t end = strlen(path);
  while (n > 0) path[end++] = digits[--n];
  memcpy(path + end, "/children", sizeof "/children");
  kill(-command, SIGKILL);
  while (Now() < deadline) {
    char children[4096];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t size = fd < 0 ? 0 : read(fd, children, sizeof children);
    close(fd);
    pid_t id = 0;
    for (ssize_t i = 0; i < size; ++i) {  // "12 345 ": a number cut off at the end waits for the next round
      if (children[i] >= '0' && children[i] <= '9') {
        id = id * 10 + (children[i] - '0');
      } else {
        if (id > 1) kill(id, SIGKILL);
        id = 0;
      }
    }
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD) return;
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace

void Supervise(const SupervisorPlan& plan) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  CloseAllBut(plan.ready_fd, plan.output_fd, plan.status_fd);
  if (plan.isolated) {
    Isolate(plan);
  } else {
    Require(plan, prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, "ask for orphans");
  }
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);  // the command may not look into this copy of its caller
  prctl(PR_SET_PDEATHSIG, SIGKILL);    // forgotten when the user changed
  Require(plan, chdir(plan.directory) == 0, "enter the working directory");
  for (size_t i = 0; i < plan.file_count; ++i) {
    Require(plan, WriteFile(plan.files[i].name, plan.files[i].data, plan.files[i].size), "write the files");
  }
  const double deadline = Now() + plan.seconds;
  const auto command = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  Require(plan, command >= 0, "start the command");
  if (command == 0) RunCommand(plan);
  SupervisorStatus status;
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  while (status.kind == SupervisorStatus::kFailed) {
    const double left = deadline - Now();
    int ended = 0;
    if (Reap(command, &ended)) {
      status.kind = SupervisorStatus::kEnded;
      status.wait_status = ended;
    } else if (left <= 0) {
      status.kind = SupervisorStatus::kTimedOut;
    } else {
      const timespec wait{static_cast<time_t>(left),
                          static_cast<long>(1e9 * (left - static_cast<double>(time_t(left))))};
      sigtimedwait(&child, nullptr, &wait);
    }
  }
  if (!plan.isolated) KillTheRest(command);
  Tell(plan, status);  // isolated: as process 1, it takes all others with it
}

}  // namespace pointsman
