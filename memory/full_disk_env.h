// A RocksDB environment whose disk has room for so many bytes, for tests of a full disk under truth/. Appends beyond
// fail with NoSpace; everything else goes to the real file system. Any thread.
#pragma once

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace pointsman {

class FullDisk : public rocksdb::FileSystemWrapper {
 public:
  explicit FullDisk(int64_t bytes_left)
      : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()), bytes_left_(bytes_left) {}
  const char* Name() const override { return "FullDisk"; }
  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* context) override {
    std::unique_ptr<rocksdb::FSWritableFile> file;
    rocksdb::IOStatus status = target()->NewWritableFile(name, options, &file, context);
    if (status.ok()) *result = std::make_unique<File>(std::move(file), this);
    return status;
  }

 private:
  class File : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(std::unique_ptr<rocksdb::FSWritableFile> file, FullDisk* disk)
        : rocksdb::FSWritableFileOwnerWrapper(std::move(file)), disk_(disk) {}
    using rocksdb::FSWritableFileOwnerWrapper::Append;
    rocksdb::IOStatus Append(const rocksdb::Slice& bytes, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
      if ((disk_->bytes_left_ -= static_cast<int64_t>(bytes.size())) < 0) {
        return rocksdb::IOStatus::NoSpace("No space left on device");
      }
      return rocksdb::FSWritableFileOwnerWrapper::Append(bytes, options, context);
    }

   private:
    FullDisk* disk_;
  };

  std::atomic<int64_t> bytes_left_;
};

inline std::unique_ptr<rocksdb::Env> MakeFullDiskEnv(int64_t bytes_left) {
  return rocksdb::NewCompositeEnv(std::make_shared<FullDisk>(bytes_left));
}

}  // namespace pointsman
