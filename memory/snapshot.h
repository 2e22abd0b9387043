// Snapshots: a memory as it stood at one moment, in a directory of its own that shares no bytes with it.
//
//   SNAPSHOT/SNAPSHOT.json         what it is, and size and SHA-256 of every file below; written last
//   SNAPSHOT/MANIFEST.json, derived/gen-NNN/, truth/     the memory itself, laid out like one (docs/formats.md)
//
// So a snapshot can be opened as a memory for reading. The name of its directory is the snapshot's name: 1 to 64 of
// [a-z0-9._-], beginning with a letter or digit, not ending in ".tmp". What is unfinished has a name ending in ".tmp".
// A crash leaves a whole snapshot or none, and the old memory or the restored one.
// Functions for any thread. Errors beside those that are named: kNoSpace, kIo.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "memory/entry_store.h"
#include "memory/file_layer.h"
#include "memory/manifest.h"
#include "memory/result.h"

namespace pointsman {

struct SnapshotFile {
  std::string path;  // below the snapshot, with '/'
  uint64_t bytes = 0;
  std::string sha256;  // 64 hex digits
};

struct SnapshotInfo {
  std::string name;
  int64_t created_unix_s = 0;
  uint64_t generation = 0;
  uint64_t truth_sequence = 0;  // last change that its truth holds
  std::string digest;           // of the generation, as in the manifest
  std::vector<SnapshotFile> files;
  std::string sha256;  // over all of the above, so over every byte
  uint64_t bytes() const;
};

bool IsSnapshotName(std::string_view name);

struct SnapshotOptions {
  // Truth of a MemoryWriter that this process has open on the memory: copied with a RocksDB checkpoint, while other
  // threads may write to it. The writer itself must not publish meanwhile.
  EntryStore* store = nullptr;
  FileSystem* files = nullptr;  // nullptr = the real one; tests inject faults
};

// Takes a snapshot of `memory` into `directory`, which must not be there yet; parents are made.
//   no writer           the files are copied under the writers' lock
//   options.store       its truth is copied with a checkpoint
//   a writer elsewhere  its truth is read beside it, without a lock; manifest and generation come from the copies there
// What is promised in all three: truth as of one moment during the call, so everything that was written (synced or not)
// before it; the manifest that is published at that moment (beside a writer elsewhere: or is about to be), and the
// generation that it names. All of it is checked as `pointsman verify` does before the snapshot gets its name.
// Errors: kInvalidArgument (name, or `directory` is there), kNotFound (no memory), kCorrupt (the memory is damaged),
// kBusy (this snapshot is being taken elsewhere).
Result<SnapshotInfo> CreateSnapshot(const std::filesystem::path& memory, const std::filesystem::path& directory,
                                    const SnapshotOptions& options = {});

// What SNAPSHOT.json says; only that file is read. kNotFound without one, kCorrupt, kUnsupported.
Result<SnapshotInfo> ReadSnapshot(const std::filesystem::path& directory, FileSystem* files = nullptr);

// Every byte against SNAPSHOT.json. kCorrupt names the first file that is missing, longer, shorter or changed.
Result<SnapshotInfo> VerifySnapshot(const std::filesystem::path& directory, FileSystem* files = nullptr);

struct SnapshotListing {
  std::vector<SnapshotInfo> snapshots;  // by time, then name
  std::vector<Error> damaged;           // of directories with a SNAPSHOT.json that cannot be read
};
// The snapshots directly below `parent`; empty if it is not there.
Result<SnapshotListing> ListSnapshots(const std::filesystem::path& parent, FileSystem* files = nullptr);

// kNotFound unless it is a snapshot (a damaged one, too).
Status RemoveSnapshot(const std::filesystem::path& directory, FileSystem* files = nullptr);

struct SnapshotHolding {
  std::string name;
  std::string problem;  // empty: it holds the document. Else: it cannot be read, so it may
};
// The snapshots below `parent` whose truth still holds the document: those that a deletion did not reach.
Result<std::vector<SnapshotHolding>> SnapshotsHolding(const std::filesystem::path& parent, uint64_t document,
                                                      FileSystem* files = nullptr);

struct RestoreOptions {
  // Asked once everything is checked, before anything is replaced: its error ends the restore.
  std::function<Status(const Manifest&)> accept = {};
  FileSystem* files = nullptr;
};

// Puts the snapshot's memory in place of `memory`, which is a memory or not there. Every byte is checked before any is
// used, and again while it is copied; the restored memory is checked as `pointsman verify` does; then it takes the
// place in one step. Readers that have the old one open keep it. Whoever reads truth at that moment should open it
// again. Generations published later get numbers that neither of the two memories used. What a build keeps beside a
// memory (unpublished kinds, stages) is not in a snapshot, so not in the restored memory. Returns the manifest that is
// published now. Errors: kCorrupt (the snapshot is damaged), kBusy (a writer is at work), kInvalidArgument (`memory`
// holds files that are no memory's), kUnsupported (the file system cannot exchange directories).
Result<Manifest> RestoreSnapshot(const std::filesystem::path& snapshot, const std::filesystem::path& memory,
                                 const RestoreOptions& options = {});

}  // namespace pointsman
