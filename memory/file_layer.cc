#include "memory/file_layer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace pointsman {
namespace {

// Closes on every way out; Release() hands the descriptor on.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int OpenRetrying(const std::filesystem::path& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

class MmapFile final : public MappedFile {
 public:
  MmapFile(void* address, size_t size) : address_(address), size_(size) {}
  ~MmapFile() override {
    if (size_ > 0) ::munmap(address_, size_);
  }
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;
  std::span<const std::byte> bytes() const override { return {static_cast<const std::byte*>(address_), size_}; }

 private:
  void* address_;
  size_t size_;
};

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~PosixWritableFile() override {
    if (fd_ >= 0) ::close(fd_);
  }

  Status Append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        return ErrnoError(path_, "write", errno);
      }
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return {};
  }

  Status Sync() override {
    if (::fsync(fd_) != 0) return ErrnoError(path_, "sync", errno);
    return {};
  }

  Status Close() override {
    if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0) return ErrnoError(path_, "close", errno);
    return {};
  }

 private:
  std::filesystem::path path_;
  int fd_;
};

class PosixFileSystem final : public FileSystem {
 public:
  Result<std::string> ReadFile(const std::filesystem::path& path) override {
    Descriptor file(OpenRetrying(path, O_RDONLY));
    if (file.get() < 0) return ErrnoError(path, "open", errno);
    std::string text;
    char buffer[1 << 16];
    for (;;) {
      ssize_t got = ::read(file.get(), buffer, sizeof buffer);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoError(path, "read", errno);
      if (got == 0) return text;
      text.append(buffer, static_cast<size_t>(got));
    }
  }

  Result<std::shared_ptr<const MappedFile>> Map(const std::filesystem::path& path) override {
    Descriptor file(OpenRetrying(path, O_RDONLY));
    if (file.get() < 0) return ErrnoError(path, "open", errno);
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return ErrnoError(path, "stat", errno);
    if (!S_ISREG(info.st_mode)) return ErrnoError(path, "map", S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
    size_t size = static_cast<size_t>(info.st_size);
    void* address = nullptr;
    if (size > 0) {
      address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
      if (address == MAP_FAILED) return ErrnoError(path, "map", errno);
    }
    return std::shared_ptr<const MappedFile>(std::make_shared<MmapFile>(address, size));
  }

  Result<std::unique_ptr<WritableFile>> Create(const std::filesystem::path& path) override {
    int fd = OpenRetrying(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return ErrnoError(path, "create", errno);
    return std::unique_ptr<WritableFile>(std::make_unique<PosixWritableFile>(path, fd));
  }

  Status Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return ErrnoError(to, "rename to", errno);
    return {};
  }

  Status Exchange(const std::filesystem::path& a, const std::filesystem::path& b) override {
    if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) return {};
    if (errno != EINVAL && errno != ENOSYS) return ErrnoError(b, "exchange", errno);
    return Error{ErrorCode::kUnsupported, b.string() +
                                              ": this file system cannot exchange two directories in one step; "
                                              "choose a new directory"};
  }

  Status Remove(const std::filesystem::path& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) return ErrnoError(path, "remove", error.value());
    return {};
  }

  Status CreateDirectories(const std::filesystem::path& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) return ErrnoError(path, "create directory", error.value());
    return {};
  }

  Status SyncDirectory(const std::filesystem::path& path) override {
    Descriptor directory(OpenRetrying(path, O_RDONLY | O_DIRECTORY));
    if (directory.get() < 0) return ErrnoError(path, "open directory", errno);
    if (::fsync(directory.get()) != 0) return ErrnoError(path, "sync directory", errno);
    return {};
  }

  Result<std::vector<std::string>> List(const std::filesystem::path& directory) override {
    std::error_code error;
    std::vector<std::string> names;
    std::filesystem::directory_iterator entry(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      names.push_back(entry->path().filename().string());
    }
    if (error) return ErrnoError(directory, "list", error.value());
    std::sort(names.begin(), names.end());
    return names;
  }

  bool Exists(const std::filesystem::path& path) override {
    std::error_code error;
    return std::filesystem::exists(path, error);
  }
};

const char* Remedy(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "free some space or choose another directory; nothing that was published is lost";
    case ENOENT:
      return "check the path";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check the permissions of the file and its directory";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (ulimit -n)";
    case EISDIR:
    case ENOTDIR:
      return "check whether a file or a directory is meant";
    default:
      return "check the disk (dmesg) and run the command again";
  }
}

}  // namespace

Error ErrnoError(const std::filesystem::path& path, std::string_view action, int error_number) {
  ErrorCode code = ErrorCode::kIo;
  if (error_number == ENOSPC || error_number == EDQUOT) code = ErrorCode::kNoSpace;
  if (error_number == ENOENT) code = ErrorCode::kNotFound;
  return {code, path.string() + ": cannot " + std::string(action) + ": " +
                    std::generic_category().message(error_number) + "; " + Remedy(error_number)};
}

Status FileSystem::WriteAtomically(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  auto write = [&]() -> Status {
    POINTSMAN_TRY(std::unique_ptr<WritableFile> file, Create(temporary));
    POINTSMAN_CHECK_OK(file->Append(std::as_bytes(std::span(bytes.data(), bytes.size()))));
    POINTSMAN_CHECK_OK(file->Sync());
    POINTSMAN_CHECK_OK(file->Close());
    return Rename(temporary, path);
  };
  if (Status written = write(); !written.ok()) {
    // The first error is the one to report; a temporary that stays is swept at the next open.
    [[maybe_unused]] Status removed = Remove(temporary);
    return written;
  }
  std::filesystem::path directory = path.parent_path();
  return SyncDirectory(directory.empty() ? "." : directory);
}

FileSystem& FileSystem::Real() {
  static PosixFileSystem files;
  return files;
}

}  // namespace pointsman
