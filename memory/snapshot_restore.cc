#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include "memory/derived_copy.h"
#include "memory/memory_paths.h"
#include "memory/rocksdb_store.h"
#include "memory/snapshot.h"
#include "memory/snapshot_files.h"
#include "memory/writer_lock.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// What a memory's directory may hold; "kinds" and "build" are what a build keeps (indexer/).
constexpr std::array<std::string_view, 6> kOwnNames = {"MANIFEST.json", "LOCK", "truth", "derived", "kinds", "build"};

// Nothing but a memory is replaced, and not together with a user's files.
Status CheckReplaceable(FileSystem& files, const fs::path& directory) {
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(directory));
  for (const std::string& name : names) {
    if (std::ranges::find(kOwnNames, name) != kOwnNames.end() || name == "MANIFEST.json.tmp") continue;
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}: holds {}, which is not a memory's; move it away or choose a new directory",
                             directory.string(), name)};
  }
  return {};
}

Status CopyChecked(FileSystem& files, const fs::path& snapshot, const SnapshotInfo& info, const fs::path& target) {
  std::vector<std::string> paths;
  for (const SnapshotFile& file : info.files) paths.push_back(file.path);
  POINTSMAN_CHECK_OK(MakeDirectoriesOf(files, target, paths));
  for (const SnapshotFile& expected : info.files) {
    POINTSMAN_TRY(const SnapshotFile copied, CopyFile(files, snapshot, target, expected.path));
    if (copied.sha256 == expected.sha256) continue;
    return Error{ErrorCode::kCorrupt, fmt::format("{}: changed while it was copied; use another snapshot",
                                                  (snapshot / expected.path).string())};
  }
  return SyncDirectoriesOf(files, target, paths);
}

// Of all that the memory published so far; 0 if that cannot be told any more.
uint64_t HighestGeneration(FileSystem& files, const fs::path& memory) {
  uint64_t highest = 0;
  if (const auto names = files.List(DerivedPath(memory)); names.ok()) {
    for (const std::string& name : names.value()) highest = std::max(highest, GenerationNumber(name));
  }
  if (const auto manifest = ReadManifestFile(files, memory); manifest.ok()) {
    highest = std::max(highest, manifest.value().generation);
  }
  if (const auto truth = RocksDbStore::OpenReadOnly(TruthPath(memory)); truth.ok()) {
    if (const auto floor = GenerationFloor(*truth.value()); floor.ok()) highest = std::max(highest, floor.value());
  }
  return highest;
}

// So that the next generation of `restored` gets a number that the memory it replaces did not use either.
Status KeepNumbersOf(const fs::path& restored, uint64_t highest) {
  if (highest == 0) return {};
  POINTSMAN_TRY(const std::unique_ptr<EntryStore> truth, RocksDbStore::Open(TruthPath(restored), /*create=*/false));
  POINTSMAN_CHECK_OK(RaiseGenerationFloor(*truth, highest));
  return truth->Sync();
}

}  // namespace

Result<Manifest> RestoreSnapshot(const fs::path& snapshot, const fs::path& memory_given,
                                 const RestoreOptions& options) {
  FileSystem& files = options.files != nullptr ? *options.files : FileSystem::Real();
  fs::path memory = WithoutSlash(memory_given);
  std::error_code not_there;
  if (fs::path real = fs::canonical(memory, not_there); !not_there) memory = std::move(real);  // not the link to it
  const fs::path parent = memory.parent_path().empty() ? "." : memory.parent_path();
  POINTSMAN_TRY(const SnapshotInfo info, VerifySnapshot(snapshot, &files));

  std::optional<WriterLock> lock;  // of the memory that is replaced
  const bool replaces = files.Exists(memory);
  if (replaces) {
    POINTSMAN_CHECK_OK(CheckReplaceable(files, memory));
    POINTSMAN_TRY(lock, WriterLock::Acquire(memory));
  }
  const fs::path staged = RestoringPath(memory);
  POINTSMAN_CHECK_OK(files.CreateDirectories(staged));
  POINTSMAN_TRY(const WriterLock staged_lock, WriterLock::Acquire(staged));
  const auto stage = [&]() -> Result<Manifest> {
    // An earlier restore may have left the memory that it replaced here; that it did must last before this goes.
    POINTSMAN_CHECK_OK(files.SyncDirectory(parent));
    POINTSMAN_CHECK_OK(RemoveAllButLock(files, staged));
    POINTSMAN_CHECK_OK(CopyChecked(files, snapshot, info, staged));
    POINTSMAN_TRY(const std::vector<Finding> findings, CheckMemory(files, staged));
    if (!findings.empty()) {
      return Error{ErrorCode::kCorrupt, fmt::format("{}: what it holds is not a sound memory: {}; use another snapshot",
                                                    snapshot.string(), findings[0].problem)};
    }
    POINTSMAN_TRY(Manifest manifest, ReadManifestFile(files, staged));
    if (options.accept) POINTSMAN_CHECK_OK(options.accept(manifest));
    if (replaces) POINTSMAN_CHECK_OK(KeepNumbersOf(staged, HighestGeneration(files, memory)));
    POINTSMAN_CHECK_OK(replaces ? files.Exchange(staged, memory) : files.Rename(staged, memory));
    return manifest;
  };
  auto manifest = stage();
  if (!manifest.ok()) {
    static_cast<void>(files.Remove(staged));  // best effort: the next restore removes it as well
    return manifest;
  }
  POINTSMAN_CHECK_OK(files.SyncDirectory(parent));
  if (replaces) static_cast<void>(files.Remove(staged));  // the old memory
  return manifest;
}

}  // namespace pointsman
