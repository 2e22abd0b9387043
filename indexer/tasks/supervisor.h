// The child side of RunSandboxed: a process between the caller and the command. It sets the isolation up, starts the
// command, waits for its end or its deadline, and leaves nothing behind.
//
// It is cloned from a process with threads, so nothing here may allocate, lock, or use what keeps state of threads in
// the C library (setuid and fork among them): system calls on what was prepared before.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pointsman {

inline constexpr int kSandboxUser = 65534;  // "nobody": the command's user inside, and for root outside too

struct PreparedFile {
  const char* name = nullptr;
  const char* data = nullptr;
  size_t size = 0;
};

struct SupervisorPlan {
  bool isolated = true;
  const char* command = nullptr;
  const char* const* environment = nullptr;  // null-terminated
  const char* directory = nullptr;           // where the files go; isolated: below the sandbox's own /tmp
  const char* tmp_options = nullptr;         // of that /tmp: size and mode
  const PreparedFile* files = nullptr;
  size_t file_count = 0;
  double seconds = 0;
  uint64_t memory_bytes = 0, file_bytes = 0, processes = 0, open_files = 0;
  int ready_fd = -1;   // a byte arrives once the user map is written
  int output_fd = -1;  // the command's stdout and stderr
  int status_fd = -1;  // receives one SupervisorStatus
};

struct SupervisorStatus {
  enum Kind : int32_t { kFailed, kEnded, kTimedOut } kind = kFailed;
  int32_t wait_status = 0;  // kEnded
  int32_t error = 0;        // kFailed: errno
  char step[48] = {};       // kFailed: what was tried
};

[[noreturn]] void Supervise(const SupervisorPlan& plan);

}  // namespace pointsman
