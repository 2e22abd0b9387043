// SNAPSHOT.json, and copying files with their hashes: what taking and restoring a snapshot share.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "memory/file_layer.h"
#include "memory/result.h"
#include "memory/snapshot.h"

namespace pointsman {

inline std::filesystem::path SnapshotRecordPath(const std::filesystem::path& snapshot) {
  return snapshot / "SNAPSHOT.json";
}

// Indented JSON with a newline; fills info.sha256. ParseSnapshotRecord refuses paths that lead anywhere but to files of
// a memory: a snapshot may come from a stranger.
std::string SerializeSnapshotRecord(SnapshotInfo& info);
Result<SnapshotInfo> ParseSnapshotRecord(const std::string& json, const std::filesystem::path& path_for_errors);

// Size and hash of root / path.
Result<SnapshotFile> HashFile(FileSystem& files, const std::filesystem::path& root, const std::string& path);
// The same while copying to to / path, whose directory must be there; synced.
Result<SnapshotFile> CopyFile(FileSystem& files, const std::filesystem::path& from, const std::filesystem::path& to,
                              const std::string& path);
// Makes and syncs the directories that `files` lie in, below `root`. Before (make) and after the files are written.
Status MakeDirectoriesOf(FileSystem& files, const std::filesystem::path& root, const std::vector<std::string>& paths);
Status SyncDirectoriesOf(FileSystem& files, const std::filesystem::path& root, const std::vector<std::string>& paths);
// Removes everything in `directory` but the file LOCK.
Status RemoveAllButLock(FileSystem& files, const std::filesystem::path& directory);
// "a/b/" -> "a/b": a name to append to.
std::filesystem::path WithoutSlash(const std::filesystem::path& path);

}  // namespace pointsman
