#include "memory/writer_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "memory/file_layer.h"

namespace pointsman {
namespace {

std::string ReadPid(int fd) {
  char text[32] = {};
  const ssize_t size = pread(fd, text, sizeof text - 1, 0);
  const std::string pid(text, size > 0 ? static_cast<size_t>(size) : 0);
  const std::string digits = pid.substr(0, pid.find_first_not_of("0123456789"));
  return digits.empty() ? "unknown" : digits;
}

// Whether `path` is still the file that was opened: a restore may have put another directory in its place.
bool IsStill(int fd, const std::filesystem::path& path) {
  struct stat opened, now;
  return fstat(fd, &opened) == 0 && stat(path.c_str(), &now) == 0 && opened.st_dev == now.st_dev &&
         opened.st_ino == now.st_ino;
}

}  // namespace

Result<WriterLock> WriterLock::Acquire(const std::filesystem::path& memory_directory) {
  const std::filesystem::path path = memory_directory / "LOCK";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoError(path, "open", errno);
  WriterLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoError(path, "lock", errno);
    return Error{ErrorCode::kBusy, fmt::format("{}: process {} is writing this memory; wait for it or stop it",
                                               memory_directory.string(), ReadPid(fd))};
  }
  if (!IsStill(fd, path)) {
    return Error{ErrorCode::kBusy,
                 fmt::format("{}: was replaced just now; run the command again", memory_directory.string())};
  }
  const std::string pid = fmt::format("{}\n", getpid());
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return ErrnoError(path, "write", errno);
  }
  return lock;
}

WriterLock::WriterLock(WriterLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

WriterLock& WriterLock::operator=(WriterLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

WriterLock::~WriterLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace pointsman
