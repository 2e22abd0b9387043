// Every file that Pointsman writes or maps itself goes through a FileSystem, so that tests can inject faults (a full
// disk, a short write, a crash before rename) and so that errors always name the path.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"

namespace pointsman {

// A read-only mapping (or a copy); unmapped when the last owner lets go.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual std::span<const std::byte> bytes() const = 0;
};

// An append-only file. Close() (or Sync) reports what the destructor would swallow.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  virtual Status Sync() = 0;
  virtual Status Close() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual Result<std::string> ReadFile(const std::filesystem::path& path) = 0;
  virtual Result<std::shared_ptr<const MappedFile>> Map(const std::filesystem::path& path) = 0;
  virtual Result<std::unique_ptr<WritableFile>> Create(const std::filesystem::path& path) = 0;
  virtual Status Rename(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  // Two existing paths change places in one step. kUnsupported where the file system cannot (NFS).
  virtual Status Exchange(const std::filesystem::path& a, const std::filesystem::path& b) = 0;
  virtual Status Remove(const std::filesystem::path& path) = 0;  // recursive; absent is not an error
  virtual Status CreateDirectories(const std::filesystem::path& path) = 0;
  virtual Status SyncDirectory(const std::filesystem::path& path) = 0;
  virtual Result<std::vector<std::string>> List(const std::filesystem::path& directory) = 0;  // names, sorted
  virtual bool Exists(const std::filesystem::path& path) = 0;

  // Write to a temporary name, sync, rename over `path`, sync the directory.
  Status WriteAtomically(const std::filesystem::path& path, std::string_view bytes);

  static FileSystem& Real();  // stateless: the operating system's
};

// kNoSpace for ENOSPC and EDQUOT, kNotFound for ENOENT, kIo otherwise; the text names path and remedy.
Error ErrnoError(const std::filesystem::path& path, std::string_view action, int error_number);

}  // namespace pointsman
