// The one-writer rule: an advisory flock on MEMORY/LOCK, which also holds the writer's pid as text for error messages.
// The system drops the lock with the process, however it ends; the file stays. Not across machines on NFS without
// flock.
#pragma once

#include <filesystem>

#include "memory/result.h"

namespace pointsman {

class WriterLock {
 public:
  // kBusy names the pid of the holder, which may be this very process.
  static Result<WriterLock> Acquire(const std::filesystem::path& memory_directory);
  WriterLock(WriterLock&& other) noexcept;
  WriterLock& operator=(WriterLock&& other) noexcept;
  ~WriterLock();

 private:
  explicit WriterLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace pointsman
