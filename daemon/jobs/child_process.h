// A program that runs beside the server and never outlives it: own process group, lower priority, first in line when
// memory runs out, nothing open but /dev/null and two pipes. Never through a shell.
//
//   POINTSMAN_TRY(ChildProcess child, ChildProcess::Start(options));
//   ... poll child.output(), child.messages() ...
//   if (const std::optional<int> status = child.TryWait()) ...
//
// The kernel kills the child when the thread that started it ends, so start it from one that outlives it. One thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct ChildOptions {
  std::filesystem::path executable;
  std::vector<std::string> arguments = {};    // without the program's name
  std::filesystem::path directory = {};       // to work in; empty: the server's
  std::vector<std::string> environment = {};  // "NAME=VALUE"
  int niceness = 15;                          // added to this process's; behind what computes for clients
  int oom_score_adj = 500;                    // the kernel's choice of whom to kill: the child before the server
  uint64_t address_space_bytes = 0;           // RLIMIT_AS; 0 = no limit. Files that are mapped count
};

class ChildProcess {
 public:
  // Errors: kNotFound and kIo of the executable, kIo when there is no room for a process or descriptors.
  static Result<ChildProcess> Start(const ChildOptions& options);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // SIGKILL to the group, waits for the child

  pid_t pid() const { return pid_; }
  // Its standard output and standard error, to be read without blocking; -1 once closed.
  int output() const { return output_; }
  int messages() const { return messages_; }
  void CloseOutput();
  void CloseMessages();
  // To the whole group. Does nothing once the child was waited for.
  void Signal(int number) const;
  // As waitpid(2) has it, once the child has ended; what is left of its group is killed first.
  std::optional<int> TryWait();

 private:
  ChildProcess(pid_t pid, int output, int messages) : pid_(pid), output_(output), messages_(messages) {}
  pid_t pid_ = -1;
  int output_ = -1, messages_ = -1;
};

// When a process began, in the kernel's ticks: with its pid, its identity. nullopt: there is none, or it has ended and
// only waits to be collected.
std::optional<uint64_t> ProcessStartTicks(pid_t pid);

// This process's environment without the POINTSMAN_* variables: a child's options are those of its command line.
std::vector<std::string> EnvironmentForJobs();

}  // namespace pointsman
