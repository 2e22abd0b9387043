#include "memory/snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include "memory/memory_paths.h"
#include "memory/rocksdb_store.h"
#include "memory/snapshot_files.h"
#include "memory/writer_lock.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// A writer elsewhere may compact away a file that is being read; then again from the start.
constexpr int kAttempts = 6;
constexpr std::string_view kUnfinished = ".tmp";

FileSystem& RealIfNull(FileSystem* files) { return files != nullptr ? *files : FileSystem::Real(); }

// What a writer elsewhere can cause by going on; everything else is the same the next time.
bool MayPass(const Error& error) {
  return error.code == ErrorCode::kCorrupt || error.code == ErrorCode::kNotFound || error.code == ErrorCode::kIo;
}

// One try to copy `memory` into `target`.
class Copying {
 public:
  Copying(FileSystem& files, const fs::path& memory, const fs::path& target, EntryStore* store)
      : files_(files), memory_(memory), target_(target), store_(store) {}

  // The lock is kept for as long as *this, so that no writer starts meanwhile.
  Result<SnapshotInfo> Run();
  bool beside_a_writer() const { return beside_a_writer_; }

 private:
  Result<Manifest> CopyUndisturbed();
  Result<Manifest> CopyBesideAWriter();
  // The plain files directly in `from`, as target_ / folder / name.
  Status CopyFolder(const fs::path& from, const std::string& folder);
  Status HashFolder(const std::string& folder);

  FileSystem& files_;
  const fs::path& memory_;
  const fs::path& target_;
  EntryStore* store_;
  std::optional<WriterLock> lock_;
  bool beside_a_writer_ = false;
  std::vector<SnapshotFile> copied_;
};

Status Copying::CopyFolder(const fs::path& from, const std::string& folder) {
  POINTSMAN_CHECK_OK(files_.CreateDirectories(target_ / folder));
  POINTSMAN_TRY(const std::vector<std::string> names, files_.List(from));
  for (const std::string& name : names) {
    std::error_code error;
    if (name == "LOCK" || !fs::is_regular_file(from / name, error)) continue;
    POINTSMAN_TRY(SnapshotFile file, CopyFile(files_, from, target_ / folder, name));
    file.path = folder + "/" + name;
    copied_.push_back(std::move(file));
  }
  return {};
}

Status Copying::HashFolder(const std::string& folder) {
  POINTSMAN_TRY(const std::vector<std::string> names, files_.List(target_ / folder));
  for (const std::string& name : names) {
    POINTSMAN_TRY(SnapshotFile file, HashFile(files_, target_, folder + "/" + name));
    copied_.push_back(std::move(file));
  }
  return {};
}

std::string FolderOf(const Manifest& manifest) { return "derived/" + GenerationName(manifest.generation); }

// Nobody publishes meanwhile. Truth comes after the manifest, so it holds what the manifest asks for.
Result<Manifest> Copying::CopyUndisturbed() {
  POINTSMAN_TRY(Manifest manifest, ReadManifestFile(files_, memory_));
  POINTSMAN_CHECK_OK(CopyFolder(GenerationPath(memory_, manifest.generation), FolderOf(manifest)));
  if (store_ == nullptr) {
    POINTSMAN_CHECK_OK(CopyFolder(TruthPath(memory_), "truth"));
    return manifest;
  }
  const fs::path linked = target_ / "linked";  // a checkpoint links files where it can, a snapshot shares none
  POINTSMAN_CHECK_OK(store_->CopyTo(linked));
  POINTSMAN_CHECK_OK(CopyFolder(linked, "truth"));
  POINTSMAN_CHECK_OK(files_.Remove(linked));
  return manifest;
}

// Manifest and derived files may be replaced at any moment, but truth has copies of both: one view of it is enough.
Result<Manifest> Copying::CopyBesideAWriter() {
  const fs::path read = target_ / "read";
  {
    POINTSMAN_TRY(const std::unique_ptr<EntryStore> truth, RocksDbStore::OpenReadOnly(TruthPath(memory_)));
    POINTSMAN_CHECK_OK(truth->CopyTo(read));
  }
  POINTSMAN_CHECK_OK(CopyFolder(read, "truth"));
  POINTSMAN_CHECK_OK(files_.Remove(read));
  POINTSMAN_TRY(const std::unique_ptr<EntryStore> truth, RocksDbStore::OpenReadOnly(TruthPath(target_)));
  POINTSMAN_TRY(const std::string json, NewestManifestCopy(*truth));
  POINTSMAN_TRY(Manifest manifest, ParseManifest(json, TruthPath(memory_).string()));
  POINTSMAN_CHECK_OK(RestoreFromTruth(files_, *truth, manifest.generation, target_ / FolderOf(manifest)));
  POINTSMAN_CHECK_OK(HashFolder(FolderOf(manifest)));
  return manifest;
}

Result<SnapshotInfo> Copying::Run() {
  POINTSMAN_CHECK_OK(RemoveAllButLock(files_, target_));
  if (store_ == nullptr) {
    auto lock = WriterLock::Acquire(memory_);
    beside_a_writer_ = !lock.ok();  // or on a read-only disk, where that way works as well
    if (!beside_a_writer_) lock_ = std::move(lock).value();
  }
  POINTSMAN_TRY(const Manifest manifest, beside_a_writer_ ? CopyBesideAWriter() : CopyUndisturbed());
  POINTSMAN_CHECK_OK(files_.WriteAtomically(ManifestPath(target_), SerializeManifest(manifest)));
  POINTSMAN_TRY(SnapshotFile copy, HashFile(files_, target_, "MANIFEST.json"));
  copied_.push_back(std::move(copy));
  POINTSMAN_TRY(const std::vector<Finding> findings, CheckMemory(files_, target_));
  if (!findings.empty()) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: a copy of it is not sound ({}: {}); run `pointsman verify {}`", memory_.string(),
                             fs::path(findings[0].file).filename().string(), findings[0].problem, memory_.string())};
  }
  SnapshotInfo info;
  info.generation = manifest.generation;
  info.digest = manifest.digest;
  POINTSMAN_TRY(info.truth_sequence, RocksDbStore::PeekLastSequence(TruthPath(target_)));
  info.files = std::move(copied_);
  std::sort(info.files.begin(), info.files.end(),
            [](const SnapshotFile& a, const SnapshotFile& b) { return a.path < b.path; });
  return info;
}

std::vector<std::string> PathsOf(const SnapshotInfo& info) {
  std::vector<std::string> paths;
  for (const SnapshotFile& file : info.files) paths.push_back(file.path);
  return paths;
}

Result<SnapshotInfo> CopyConsistently(FileSystem& files, const fs::path& memory, const fs::path& target,
                                      EntryStore* store) {
  for (int attempt = 1;; ++attempt) {
    Copying copying(files, memory, target, store);
    auto info = copying.Run();
    if (info.ok() || !copying.beside_a_writer() || !MayPass(info.error()) || attempt == kAttempts) return info;
  }
}

Error WrongName(const fs::path& directory) {
  return {
      ErrorCode::kInvalidArgument,
      fmt::format("{}: a snapshot's name has 1 to 64 characters of a-z, 0-9, '.', '_' and '-', begins with a letter "
                  "or digit and does not end in .tmp",
                  directory.string())};
}

}  // namespace

uint64_t SnapshotInfo::bytes() const {
  uint64_t total = 0;
  for (const SnapshotFile& file : files) total += file.bytes;
  return total;
}

bool IsSnapshotName(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 64 && plain(name.front()) && !name.ends_with(kUnfinished) &&
         std::ranges::all_of(name, [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

Result<SnapshotInfo> CreateSnapshot(const fs::path& memory, const fs::path& directory_given,
                                    const SnapshotOptions& options) {
  FileSystem& files = RealIfNull(options.files);
  const fs::path directory = WithoutSlash(directory_given);
  const std::string name = directory.filename().string();
  if (!IsSnapshotName(name)) return WrongName(directory);
  POINTSMAN_CHECK_OK([&]() -> Status {
    const auto manifest = ReadManifestFile(files, memory);
    return manifest.ok() ? Status() : Status(manifest.error());
  }());
  const fs::path temporary = directory.string() + std::string(kUnfinished);
  POINTSMAN_CHECK_OK(files.CreateDirectories(temporary));
  // Held until the end: who finds an unfinished directory unlocked may use it.
  auto lock = WriterLock::Acquire(temporary);
  if (!lock.ok() && lock.error().code == ErrorCode::kBusy) {
    return Error{ErrorCode::kBusy, directory.string() + ": this snapshot is being taken already; choose another name"};
  }
  if (!lock.ok()) return lock.error();
  if (files.Exists(directory)) {
    static_cast<void>(files.Remove(temporary));
    return Error{ErrorCode::kInvalidArgument, directory.string() + ": is there already; choose another name"};
  }
  const auto create = [&]() -> Result<SnapshotInfo> {
    POINTSMAN_TRY(SnapshotInfo info, CopyConsistently(files, memory, temporary, options.store));
    info.name = name;
    info.created_unix_s = static_cast<int64_t>(std::time(nullptr));
    POINTSMAN_CHECK_OK(files.WriteAtomically(SnapshotRecordPath(temporary), SerializeSnapshotRecord(info)));
    POINTSMAN_CHECK_OK(SyncDirectoriesOf(files, temporary, PathsOf(info)));
    POINTSMAN_CHECK_OK(files.Rename(temporary, directory));
    return info;
  };
  auto info = create();
  if (!info.ok()) {
    static_cast<void>(files.Remove(temporary));  // best effort: the first error is the one to report
    return info;
  }
  const fs::path parent = directory.parent_path();
  POINTSMAN_CHECK_OK(files.SyncDirectory(parent.empty() ? "." : parent));
  static_cast<void>(files.Remove(directory / "LOCK"));  // of no use any more, and harmless
  return info;
}

Result<SnapshotInfo> ReadSnapshot(const fs::path& directory_given, FileSystem* files_or_null) {
  FileSystem& files = RealIfNull(files_or_null);
  const fs::path directory = WithoutSlash(directory_given);
  const fs::path path = SnapshotRecordPath(directory);
  auto text = files.ReadFile(path);
  if (!text.ok() && text.error().code == ErrorCode::kNotFound) {
    return Error{ErrorCode::kNotFound, directory.string() + ": not a snapshot (no SNAPSHOT.json); check the path"};
  }
  if (!text.ok()) return text.error();
  POINTSMAN_TRY(SnapshotInfo info, ParseSnapshotRecord(text.value(), path));
  const std::string name = directory.filename().string();
  if (IsSnapshotName(name)) info.name = name;  // it may have been renamed since
  return info;
}

Result<SnapshotInfo> VerifySnapshot(const fs::path& directory, FileSystem* files_or_null) {
  FileSystem& files = RealIfNull(files_or_null);
  POINTSMAN_TRY(SnapshotInfo info, ReadSnapshot(directory, &files));
  for (const SnapshotFile& expected : info.files) {
    const auto found = HashFile(files, directory, expected.path);
    const auto damaged = [&](std::string_view what) {
      return Error{ErrorCode::kCorrupt,
                   fmt::format("{}: {}; use another snapshot", (directory / expected.path).string(), what)};
    };
    if (!found.ok() && found.error().code == ErrorCode::kNotFound) return damaged("is missing");
    if (!found.ok()) return found.error();
    if (found.value().bytes != expected.bytes) {
      return damaged(fmt::format("has {} bytes, {} were written", found.value().bytes, expected.bytes));
    }
    if (found.value().sha256 != expected.sha256) return damaged("its SHA-256 is not the one in SNAPSHOT.json");
  }
  return info;
}

Result<SnapshotListing> ListSnapshots(const fs::path& parent, FileSystem* files_or_null) {
  FileSystem& files = RealIfNull(files_or_null);
  SnapshotListing listing;
  if (!files.Exists(parent)) return listing;
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(parent));
  for (const std::string& name : names) {
    if (!IsSnapshotName(name) || !files.Exists(SnapshotRecordPath(parent / name))) continue;
    auto info = ReadSnapshot(parent / name, &files);
    if (info.ok()) {
      listing.snapshots.push_back(std::move(info).value());
    } else if (info.error().code != ErrorCode::kNotFound) {  // removed meanwhile
      listing.damaged.push_back(info.error());
    }
  }
  std::stable_sort(listing.snapshots.begin(), listing.snapshots.end(),
                   [](const SnapshotInfo& a, const SnapshotInfo& b) { return a.created_unix_s < b.created_unix_s; });
  return listing;
}

Status RemoveSnapshot(const fs::path& directory_given, FileSystem* files_or_null) {
  FileSystem& files = RealIfNull(files_or_null);
  const fs::path directory = WithoutSlash(directory_given);
  if (!files.Exists(SnapshotRecordPath(directory))) {
    return Error{ErrorCode::kNotFound, directory.string() + ": not a snapshot (no SNAPSHOT.json); check the path"};
  }
  // Out of sight first: what a crash leaves of it is no snapshot.
  const fs::path removed = directory.string() + ".removed" + std::string(kUnfinished);
  POINTSMAN_CHECK_OK(files.Remove(removed));
  POINTSMAN_CHECK_OK(files.Rename(directory, removed));
  const fs::path parent = directory.parent_path();
  POINTSMAN_CHECK_OK(files.SyncDirectory(parent.empty() ? "." : parent));
  return files.Remove(removed);
}

Result<std::vector<SnapshotHolding>> SnapshotsHolding(const fs::path& parent, uint64_t document,
                                                      FileSystem* files_or_null) {
  FileSystem& files = RealIfNull(files_or_null);
  std::vector<SnapshotHolding> holding;
  if (!files.Exists(parent)) return holding;
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(parent));
  for (const std::string& name : names) {
    if (!IsSnapshotName(name) || !files.Exists(SnapshotRecordPath(parent / name))) continue;
    const auto truth = RocksDbStore::OpenReadOnly(TruthPath(parent / name));
    if (!truth.ok()) {
      holding.push_back({name, truth.error().message});
      continue;
    }
    const auto found = truth.value()->GetDocument(document);
    if (found.ok()) holding.push_back({name, {}});
    if (!found.ok() && found.error().code != ErrorCode::kNotFound) holding.push_back({name, found.error().message});
  }
  return holding;
}

}  // namespace pointsman
