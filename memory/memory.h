// The door of the memory database: a directory for one model (docs/formats.md).
//
//   auto memory = Memory::Open("mem/");              // readers: manifest + derived generation, never RocksDB
//   memory.value()->tables()                          // what router/ reads
//
//   auto writer = MemoryWriter::Open("mem/", {...});  // one process; truth in RocksDB
//   writer.value()->store()                           // documents, entries, settings
//   writer.value()->Publish(tables, manifest)         // atomic: generation, then manifest
//
// A Memory is immutable and safe to share between threads. A MemoryWriter is for one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "memory/entry_store.h"
#include "memory/file_layer.h"
#include "memory/manifest.h"
#include "memory/result.h"
#include "memory/routing_tables.h"

namespace rocksdb {
class Env;
}

namespace pointsman {

struct OpenOptions {
  bool load_to_ram = false;      // copy and check every block up front instead of mapping
  bool verify_checksums = true;  // XXH3 of every block before its bytes are used
  FileSystem* files = nullptr;   // nullptr = the real one; tests inject faults
};

struct MemoryStats {
  uint64_t generation = 0;
  uint64_t rows = 0;  // over all layers
  uint64_t derived_bytes = 0;
  uint64_t truth_bytes = 0;  // size of truth/ on disk
};

class Memory {
 public:
  // Errors: kNotFound (no manifest: not a memory), kCorrupt (manifest or derived file damaged: the message names the
  // file and says `pointsman verify --repair`), kUnsupported (newer format version).
  static Result<std::shared_ptr<const Memory>> Open(const std::filesystem::path& directory, const OpenOptions& options);

  const Manifest& manifest() const { return manifest_; }
  const RoutingTables& tables() const { return tables_; }
  MemoryStats stats() const;
  const std::filesystem::path& directory() const { return directory_; }

  // The documents and entries, for reading (`docs list`, `inspect --document`, `--explain`): no lock, a writer may be
  // at work; it sees what was there at this moment. Every write is kInvalidArgument.
  Result<std::unique_ptr<EntryStore>> OpenTruth() const;

  // kMismatch with both values, field by field, unless `model` is what the memory was built for.
  // A differing dtype or expert digest is not an error: it is returned as a warning text (empty = none).
  Result<std::string> CheckFingerprint(const Fingerprint& model) const;

 private:
  std::filesystem::path directory_;
  Manifest manifest_;
  RoutingTables tables_;
};

struct WriterOptions {
  bool create = false;  // make the directory if it is not there
  FileSystem* files = nullptr;
  rocksdb::Env* store_env = nullptr;  // truth's operating system, for fault injection; must outlive the writer
};

class MemoryWriter {
 public:
  // Takes the lock (kBusy names the holder's pid), sweeps what a killed writer left, opens truth/. A damaged manifest
  // or derived file does not keep the writer from opening: RebuildDerived() restores both. kCorrupt if truth/ lost
  // changes that were there when the manifest was published.
  static Result<std::unique_ptr<MemoryWriter>> Open(const std::filesystem::path& directory,
                                                    const WriterOptions& options);
  ~MemoryWriter();

  EntryStore& store();
  const std::filesystem::path& directory() const;
  // The published tables, checked and in private memory. kNotFound before the first Publish, kCorrupt with the remedy.
  Result<RoutingTables> PublishedTables() const;

  // Writes derived/gen-NNN (the next number), keeps a copy of its files in truth, fsyncs, then replaces MANIFEST.json.
  // A crash or an error at any point leaves the previous generation published. Keeps the two newest generations.
  // Filled in here: generation, truth_sequence, kind, value_kind, digest, and `created` if it is empty.
  // Refused (kInvalidArgument) if a manifest field breaks the schema, and while the published manifest is damaged.
  Status Publish(const RoutingTables& tables, Manifest manifest);
  // Replaces the manifest alone (a new verdict, `stale`); what it publishes (generation, kind, digest) stays. kNotFound
  // before the first Publish.
  Status UpdateManifest(const Manifest& manifest);
  // The published manifest, or kNotFound.
  Result<Manifest> manifest() const;

  // Publishes a kept generation again, with the manifest that it had (verdict and all), and keeps the one that was
  // published: rolling back twice returns. `generation` 0 = the one published before. Truth is not rolled back:
  // documents that were added since are still there. Readers see the one or the other. The next Publish gets a number
  // never used. Returns the generation that is published now. Errors: kNotFound (nothing was published, or that
  // generation is not kept), kInvalidArgument (a document that the generation may hold was deleted since), kCorrupt
  // (its files are damaged). Nothing changed then.
  Result<uint64_t> Rollback(uint64_t generation = 0);

  // Leaves nothing but what is published: the other generations and their copies in truth go, and the kinds and stages
  // that a build keeps beside them, and truth is compacted. What was deleted before is then in no file of the memory.
  // Unlike Publish's own clean-up this reports what it could not remove; it may be repeated.
  Status Purge();

  // Restores MANIFEST.json and the current generation's derived files, bit for bit, from the copies in truth when they
  // are missing or damaged (verify --repair). Does nothing to a sound memory. kNotFound if nothing was published.
  Status RebuildDerived();

 private:
  struct Impl;
  explicit MemoryWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One finding of `pointsman verify`.
struct Finding {
  std::string file;
  std::string problem;
};

// Checks manifest (schema), every block of the derived generation and its digest, and every record of truth. Empty =
// sound. Changes nothing. kNotFound if there is no memory, kBusy while a writer has it open.
Result<std::vector<Finding>> Verify(const std::filesystem::path& directory, FileSystem* files = nullptr);

struct CompactReport {
  uint64_t bytes_before = 0, bytes_after = 0;  // of all files of the memory
};
// Rewrites truth without what was deleted or overwritten, and removes what killed writers and restores left. The kept
// generation stays. Errors: those of MemoryWriter::Open; kNoSpace: it needs room for truth once more meanwhile.
Result<CompactReport> CompactMemory(const std::filesystem::path& directory, const WriterOptions& options = {});

// Order-, time- and path-free digest of what a memory routes with (`inspect --digest`): 32 hex digits.
// The same seed, corpus, model and instruction set give the same digest for any number of threads.
std::string Digest(const RoutingTables& tables);

}  // namespace pointsman
