// A FileSystem that fails on purpose, for tests of what is on disk after a fault: it counts the operations of each kind
// and lets the n-th one fail, runs out of space after a budget of bytes, and damages what readers see. Everything else
// goes to the real file system. Not for production code. One thread.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "memory/file_layer.h"

namespace pointsman {

class FaultyFileSystem final : public FileSystem {
 public:
  enum class Operation { kCreate, kWrite, kSync, kRename, kSyncDirectory, kRemove };

  // The n-th operation of this kind from now on (1 = the next) and all later ones fail: a crash or a dead disk.
  void FailFrom(Operation operation, int64_t nth) { fail_from_[operation] = counts_[operation] + nth; }
  // Appends beyond this many bytes in total fail with ENOSPC after writing what fits.
  void LimitBytes(uint64_t bytes) { bytes_left_ = bytes; }
  // Readers of `name` (file name, any directory) see this bit of this byte flipped.
  void FlipBit(std::string name, uint64_t offset, int bit) { flip_ = Flip{std::move(name), offset, bit}; }
  // Readers of `name` see only its first `size` bytes.
  void Truncate(std::string name, uint64_t size) { truncate_ = {std::move(name), size}; }
  void Heal() {
    fail_from_.clear();
    bytes_left_ = std::numeric_limits<uint64_t>::max();
    flip_.reset();
    truncate_.reset();
  }
  int64_t count(Operation operation) const {
    auto found = counts_.find(operation);
    return found == counts_.end() ? 0 : found->second;
  }

  Result<std::string> ReadFile(const std::filesystem::path& path) override {
    POINTSMAN_TRY(std::string text, Real().ReadFile(path));
    Damage(path, &text);
    return text;
  }
  Result<std::shared_ptr<const MappedFile>> Map(const std::filesystem::path& path) override {
    if (!flip_ && !truncate_) return Real().Map(path);
    POINTSMAN_TRY(std::string text, ReadFile(path));
    return std::shared_ptr<const MappedFile>(std::make_shared<Copy>(std::move(text)));
  }
  Result<std::unique_ptr<WritableFile>> Create(const std::filesystem::path& path) override {
    POINTSMAN_CHECK_OK(Count(Operation::kCreate, path, "create"));
    POINTSMAN_TRY(std::unique_ptr<WritableFile> file, Real().Create(path));
    return std::unique_ptr<WritableFile>(std::make_unique<FaultyFile>(this, path, std::move(file)));
  }
  Status Rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    POINTSMAN_CHECK_OK(Count(Operation::kRename, to, "rename to"));
    return Real().Rename(from, to);
  }
  Status Exchange(const std::filesystem::path& a, const std::filesystem::path& b) override {
    POINTSMAN_CHECK_OK(Count(Operation::kRename, b, "exchange"));
    return Real().Exchange(a, b);
  }
  Status Remove(const std::filesystem::path& path) override {
    POINTSMAN_CHECK_OK(Count(Operation::kRemove, path, "remove"));
    return Real().Remove(path);
  }
  Status CreateDirectories(const std::filesystem::path& path) override { return Real().CreateDirectories(path); }
  Status SyncDirectory(const std::filesystem::path& path) override {
    POINTSMAN_CHECK_OK(Count(Operation::kSyncDirectory, path, "sync directory"));
    return Real().SyncDirectory(path);
  }
  Result<std::vector<std::string>> List(const std::filesystem::path& directory) override {
    return Real().List(directory);
  }
  bool Exists(const std::filesystem::path& path) override { return Real().Exists(path); }

 private:
  struct Flip {
    std::string name;
    uint64_t offset;
    int bit;
  };

  // Aligned like a mapping, so that damage never shows up as misalignment.
  class Copy final : public MappedFile {
   public:
    explicit Copy(const std::string& text) : size_(text.size()), words_(text.size() / 64 + 1) {
      std::copy(text.begin(), text.end(), reinterpret_cast<char*>(words_.data()));
    }
    std::span<const std::byte> bytes() const override { return std::as_bytes(std::span(words_)).first(size_); }

   private:
    struct alignas(64) Line {
      char bytes[64];
    };
    size_t size_;
    std::vector<Line> words_;
  };

  class FaultyFile final : public WritableFile {
   public:
    FaultyFile(FaultyFileSystem* files, std::filesystem::path path, std::unique_ptr<WritableFile> file)
        : files_(files), path_(std::move(path)), file_(std::move(file)) {}
    Status Append(std::span<const std::byte> bytes) override {
      POINTSMAN_CHECK_OK(files_->Count(Operation::kWrite, path_, "write"));
      uint64_t fits = std::min<uint64_t>(bytes.size(), files_->bytes_left_);
      files_->bytes_left_ -= fits;
      POINTSMAN_CHECK_OK(file_->Append(bytes.first(fits)));
      if (fits < bytes.size()) return ErrnoError(path_, "write", ENOSPC);
      return {};
    }
    Status Sync() override {
      POINTSMAN_CHECK_OK(files_->Count(Operation::kSync, path_, "sync"));
      return file_->Sync();
    }
    Status Close() override { return file_->Close(); }

   private:
    FaultyFileSystem* files_;
    std::filesystem::path path_;
    std::unique_ptr<WritableFile> file_;
  };

  Status Count(Operation operation, const std::filesystem::path& path, const char* action) {
    int64_t count = ++counts_[operation];
    auto fail = fail_from_.find(operation);
    if (fail != fail_from_.end() && count >= fail->second) return ErrnoError(path, action, EIO);
    return {};
  }

  void Damage(const std::filesystem::path& path, std::string* text) const {
    if (truncate_ && truncate_->first == path.filename() && truncate_->second < text->size()) {
      text->resize(truncate_->second);
    }
    if (flip_ && flip_->name == path.filename() && flip_->offset < text->size()) {
      (*text)[flip_->offset] = static_cast<char>((*text)[flip_->offset] ^ (1 << flip_->bit));
    }
  }

  std::map<Operation, int64_t> counts_;
  std::map<Operation, int64_t> fail_from_;
  uint64_t bytes_left_ = std::numeric_limits<uint64_t>::max();
  std::optional<Flip> flip_;
  std::optional<std::pair<std::string, uint64_t>> truncate_;
};

}  // namespace pointsman
