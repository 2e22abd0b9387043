// The truth of a memory: documents, entries and settings behind one interface with a change sequence, so that the
// embedded RocksDB can be replaced by a server (PostgreSQL) and followed by replicas.
//
// Every write gets the next sequence number (1, 2, ..). What survives a crash is a prefix of the sequence; a write that
// returned after Sync() survives a power cut. One writer process at a time (kBusy otherwise). Methods may be called
// from several threads; iteration sees a consistent snapshot.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/document.h"
#include "memory/result.h"

namespace pointsman {

// One (layer, token): quantised key and value. Sizes D and E are the layer's.
struct StoredEntry {
  int32_t layer = 0;
  EntryId id;
  std::vector<int8_t> code;  // [D]
  float code_scale = 0;
  std::vector<int8_t> value;  // [E]
  float value_scale = 0;
};

enum class ChangeKind : uint8_t { kPutDocument = 1, kDeleteDocument = 2, kPutEntries = 3, kPutSetting = 4 };

struct Change {
  uint64_t sequence = 0;
  ChangeKind kind = ChangeKind::kPutDocument;
  uint64_t document = 0;  // hash, 0 for settings
  std::string setting;    // key, empty otherwise
};

class EntryStore {
 public:
  virtual ~EntryStore() = default;

  virtual Status PutDocument(const Document& document) = 0;
  virtual Result<Document> GetDocument(uint64_t hash) = 0;  // kNotFound
  // Ascending by hash. The callback's error ends the iteration and is returned.
  virtual Status ForEachDocument(const std::function<Status(const Document&)>& visit) = 0;
  // Removes the document and its entries of all layers in one atomic write. kNotFound if it is absent.
  virtual Status DeleteDocument(uint64_t hash) = 0;

  // One atomic batch. Entries of a document that is absent are kInvalidArgument.
  // One change record per document in the batch. REQUIRES: layer >= 0, finite scales (kInvalidArgument otherwise).
  virtual Status PutEntries(std::span<const StoredEntry> entries) = 0;
  // Ascending by EntryId within the layer.
  virtual Status ForEachEntry(int32_t layer, const std::function<Status(const StoredEntry&)>& visit) = 0;

  // Small named blobs: the key transform, trained prototypes, build progress. A blob holds at most 256 MiB; keys that
  // start with "derived/" or "kept/" belong to MemoryWriter.
  virtual Status PutSetting(std::string_view key, std::string_view bytes) = 0;
  virtual Result<std::string> GetSetting(std::string_view key) = 0;  // kNotFound
  // Absent is not an error. Recorded as a kPutSetting change whose setting is gone.
  virtual Status DeleteSetting(std::string_view key) = 0;
  // Names of the settings that start with `prefix`, ascending by bytes.
  virtual Result<std::vector<std::string>> ListSettings(std::string_view prefix) = 0;

  // Writes everything that was there at one moment of the call as a store that RocksDbStore opens. Other threads may go
  // on writing: what returned before the call is in it, and what is in it is a prefix of the sequence. `directory` must
  // not be there yet; not synced. A store opened for reading beside a writer of another process may find a file gone
  // (kIo, kNotFound, kCorrupt) or miss changes in the middle: check the copy, or open the store again and repeat.
  virtual Status CopyTo(const std::filesystem::path& directory) = 0;

  virtual uint64_t LastSequence() const = 0;
  // Changes with sequence > after, ascending.
  virtual Status ForEachChange(uint64_t after, const std::function<Status(const Change&)>& visit) = 0;

  // Everything written so far is on stable storage when this returns.
  virtual Status Sync() = 0;
  // Rewrites what is stored without what was deleted or overwritten before this call: when it returns, no file of the
  // store holds those bytes. Reads everything once; the sequence does not change.
  virtual Status Compact() = 0;
};

}  // namespace pointsman
