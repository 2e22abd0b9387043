// Runs a command on files that nobody vouches for (a model's completion): isolated, limited, and gone afterwards.
//
// Isolated means Linux namespaces of its own (user, mount, process, network, IPC, host name): the command runs as an
// unprivileged user without capabilities, sees the machine's files read-only with empty /tmp, /home, /root, /run,
// /var/tmp and /dev but the harmless devices, has no network, sees only its own processes, and works in a directory in
// memory that holds the given files. When it ends or its time is up, the kernel kills every process of the namespace.
// Not a virtual machine: it stands or falls with the kernel. Needs Linux 5.12 or later and user namespaces.
//
// Threads: any number of commands may run at once.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "memory/result.h"

namespace pointsman {

struct SandboxLimits {
  double seconds = 10;                        // wall time and processor time
  uint64_t memory_bytes = uint64_t{1} << 30;  // address space of each process
  uint64_t file_bytes = uint64_t{64} << 20;   // of one file, and when isolated of all files together
  uint32_t processes = 64;                    // at once, threads included; not enforced for root without isolation
  uint32_t open_files = 256;
};

struct SandboxFile {
  std::string name;  // without '/'
  std::string content;
};

enum class SandboxEnd : uint8_t { kExited, kSignaled, kTimedOut };

struct SandboxOutcome {
  SandboxEnd end = SandboxEnd::kExited;
  int code = 0;        // exit status, or the signal's number
  std::string output;  // the last 4 KiB of stdout and stderr
  bool passed() const { return end == SandboxEnd::kExited && code == 0; }
};

// Runs `command` by /bin/sh in a fresh directory with `files`. Without `isolated` the command has the caller's rights
// and network; limits, time and the end of its process group and orphans hold as far as it does not work against them.
// Errors: kUnsupported (this machine refuses a part of the isolation; names the step and the reason), kIo,
// kInvalidArgument (a file's name).
Result<SandboxOutcome> RunSandboxed(const std::string& command, std::span<const SandboxFile> files,
                                    const SandboxLimits& limits, bool isolated);

}  // namespace pointsman
