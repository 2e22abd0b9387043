// EntryStore in an embedded RocksDB 7.8: what truth/ of a memory is.
//
// Column families: documents, entries, settings, changes (keys and values: record.h). Every mutating call is one
// WriteBatch together with its change records, so a crash leaves a prefix of the sequence, never half a call. Writes
// survive the process at once and a power cut after Sync().
// Errors: kNotFound (no store there), kCorrupt (checksum, truncated or missing file, undecodable record), kBusy
// (another process has it open), kNoSpace, kIo; each names the directory. No RocksDB exception or type leaves
// rocksdb_store.cc. Threads: any; writes are serialised by one mutex. RocksDB itself runs at most two background
// threads, writes no information log, and maps no files.
#pragma once

#include <filesystem>
#include <memory>

#include "memory/entry_store.h"
#include "memory/result.h"

namespace rocksdb {
class Env;
}

namespace pointsman {

class RocksDbStore {
 public:
  // `create` makes an empty store where nothing is; it never overwrites the remains of a damaged one (kCorrupt).
  // `env`: RocksDB's view of the operating system, for fault injection; must outlive the store. nullptr = the real one.
  static Result<std::unique_ptr<EntryStore>> Open(const std::filesystem::path& directory, bool create,
                                                  rocksdb::Env* env = nullptr);

  // For reading beside a writer, without a lock: what was there at one moment, also when the writer removes the files
  // later. Every write is kInvalidArgument. kBusy: the writer replaces its files faster than they can be opened.
  static Result<std::unique_ptr<EntryStore>> OpenReadOnly(const std::filesystem::path& directory);

  // The last sequence number, read-only: before Open(), which deletes files that a damaged RocksDB manifest forgot.
  static Result<uint64_t> PeekLastSequence(const std::filesystem::path& directory);

  // Reads everything once, read-only: RocksDB's block checksums, every record's encoding, entries without a document,
  // gaps in the change sequence. Returns the last sequence number, or kCorrupt with the first problem.
  static Result<uint64_t> Check(const std::filesystem::path& directory);
};

}  // namespace pointsman
