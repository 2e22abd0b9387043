#include "memory/rocksdb_store.h"

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/utilities/checkpoint.h>

#include <array>
#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "memory/document_id.h"
#include "memory/record.h"
#include "memory/rocksdb_options.h"
#include "memory/undisturbed_read.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSettingBytes = size_t{256} << 20;
constexpr size_t kMaxSettingKeyBytes = 1024;
constexpr std::string_view kFormatKey = "format";  // in RocksDB's default column family
constexpr std::string_view kFormatValue = "1";

enum Family { kDefault, kDocuments, kEntries, kSettings, kChanges, kFamilies };
constexpr std::array<const char*, kFamilies> kFamilyNames = {"default", "documents", "entries", "settings", "changes"};

// An empty view may have no address, which memcmp inside RocksDB must not be given.
rocksdb::Slice AsSlice(std::string_view bytes) {
  return bytes.empty() ? rocksdb::Slice() : rocksdb::Slice(bytes.data(), bytes.size());
}
std::string_view AsView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

Error RecordError(const fs::path& directory, Family family, std::string_view what) {
  return {ErrorCode::kCorrupt,
          fmt::format("{}: {} in column family {}; {}", directory.string(), what, kFamilyNames[family], kTruthRemedy)};
}

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

rocksdb::ReadOptions Scan() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  return options;
}

// Runs `body`; a library's exception becomes an Error of its result type.
template <typename Body>
auto Guarded(const fs::path& directory, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::exception& exception) {
    return Error{ErrorCode::kInternal,
                 fmt::format("{}: {}; run the command again", directory.string(), exception.what())};
  }
}

class Store final : public EntryStore {
 public:
  explicit Store(fs::path directory) : directory_(std::move(directory)) {}
  ~Store() override {
    if (!db_) return;
    for (rocksdb::ColumnFamilyHandle* family : families_) static_cast<void>(db_->DestroyColumnFamilyHandle(family));
    static_cast<void>(db_->Close());
  }

  Status Open(bool create, bool read_only, rocksdb::Env* env);

  Status PutDocument(const Document& document) override;
  Result<Document> GetDocument(uint64_t hash) override;
  Status ForEachDocument(const std::function<Status(const Document&)>& visit) override;
  Status DeleteDocument(uint64_t hash) override;
  Status PutEntries(std::span<const StoredEntry> entries) override;
  Status ForEachEntry(int32_t layer, const std::function<Status(const StoredEntry&)>& visit) override;
  Status PutSetting(std::string_view key, std::string_view bytes) override;
  Result<std::string> GetSetting(std::string_view key) override;
  Status DeleteSetting(std::string_view key) override;
  Result<std::vector<std::string>> ListSettings(std::string_view prefix) override;
  Status CopyTo(const fs::path& directory) override;
  uint64_t LastSequence() const override { return last_sequence_.load(); }
  Status ForEachChange(uint64_t after, const std::function<Status(const Change&)>& visit) override;
  Status Sync() override;
  Status Compact() override;

  Status CheckRecords();

 private:
  using Visit = std::function<Status(std::string_view key, std::string_view value)>;

  Status CheckFormat(bool write);
  Result<Document> FindDocument(uint64_t hash);
  Status ReadLastSequence();
  // The value, or kNotFound.
  Result<std::string> Get(Family family, std::string_view key, std::string_view action);
  Status Iterate(Family family, std::string_view from, std::string_view prefix, const Visit& visit);
  // Adds the change records to `batch` and writes it. REQUIRES: write_mutex_ is held.
  Status Commit(rocksdb::WriteBatch& batch, std::vector<Change> changes, std::string_view action);
  Status DeleteEntriesOf(uint64_t hash, rocksdb::WriteBatch& batch);
  Status CopyRecordsTo(Store& other);
  Error Wrap(std::string_view action, const rocksdb::Status& status) const {
    return RocksDbError(directory_, action, status);
  }

  fs::path directory_;
  bool read_only_ = false;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  std::mutex write_mutex_;
  std::atomic<uint64_t> last_sequence_ = 0;
};

Status Store::Open(bool create, bool read_only, rocksdb::Env* env) {
  std::error_code code;
  if (!create && !fs::exists(directory_, code)) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no store here; check the path", directory_.string())};
  }
  if (LostItsCurrentFile(directory_)) {
    return Error{ErrorCode::kCorrupt,
                 fmt::format("{}: file CURRENT is missing; {}", directory_.string(), kTruthRemedy)};
  }
  read_only_ = read_only;
  rocksdb::Options options = MakeRocksDbOptions(create, env);
  if (read_only) options.max_open_files = -1;  // all tables now: the writer may remove them
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const char* name : kFamilyNames) descriptors.emplace_back(name, options);
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      read_only ? rocksdb::DB::OpenForReadOnly(options, directory_.string(), descriptors, &families_, &db)
                : rocksdb::DB::Open(options, directory_.string(), descriptors, &families_, &db);
  if (status.IsInvalidArgument()) {  // no CURRENT, or column families that are not ours
    const bool exists = fs::exists(directory_ / "CURRENT", code);
    const Error error = Wrap("open it", status);
    return Error{exists ? ErrorCode::kCorrupt : ErrorCode::kNotFound, error.message};
  }
  if (!status.ok()) return Wrap("open it", status);
  db_.reset(db);
  POINTSMAN_CHECK_OK(ReadLastSequence());
  return CheckFormat(create && last_sequence_ == 0);
}

Status Store::CheckFormat(bool write) {
  std::string format;
  const rocksdb::Status status = db_->Get(Scan(), families_[kDefault], AsSlice(kFormatKey), &format);
  if (status.IsNotFound() && write) {
    rocksdb::WriteOptions synced;
    synced.sync = true;
    const rocksdb::Status put = db_->Put(synced, families_[kDefault], AsSlice(kFormatKey), AsSlice(kFormatValue));
    return put.ok() ? Status() : Wrap("write the format version", put);
  }
  if (status.IsNotFound()) return RecordError(directory_, kDefault, "no format version");
  if (!status.ok()) return Wrap("read the format version", status);
  if (format == kFormatValue) return {};
  return Error{ErrorCode::kUnsupported,
               fmt::format("{}: another format of truth than {}; open it with the Pointsman that "
                           "wrote it",
                           directory_.string(), kFormatValue)};
}

Status Store::ReadLastSequence() {
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Scan(), families_[kChanges]));
  it->SeekToLast();
  if (it->Valid()) {
    const std::optional<uint64_t> sequence = DecodeChangeKey(AsView(it->key()));
    if (!sequence) return RecordError(directory_, kChanges, "an undecodable key");
    last_sequence_ = *sequence;
  }
  return it->status().ok() ? Status() : Wrap("read the last change", it->status());
}

Result<std::string> Store::Get(Family family, std::string_view key, std::string_view action) {
  std::string value;
  const rocksdb::Status status = db_->Get(Scan(), families_[family], AsSlice(key), &value);
  if (status.IsNotFound()) return Error{ErrorCode::kNotFound, fmt::format("{}: not found", directory_.string())};
  if (!status.ok()) return Wrap(action, status);
  return value;
}

Status Store::Iterate(Family family, std::string_view from, std::string_view prefix, const Visit& visit) {
  return Guarded(directory_, [&]() -> Status {
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Scan(), families_[family]));
    for (it->Seek(AsSlice(from)); it->Valid() && it->key().starts_with(AsSlice(prefix)); it->Next()) {
      POINTSMAN_CHECK_OK(visit(AsView(it->key()), AsView(it->value())));
    }
    return it->status().ok() ? Status() : Wrap(fmt::format("read {}", kFamilyNames[family]), it->status());
  });
}

Status Store::Commit(rocksdb::WriteBatch& batch, std::vector<Change> changes, std::string_view action) {
  if (read_only_) return Invalid(fmt::format("{}: cannot {}: opened for reading", directory_.string(), action));
  uint64_t sequence = last_sequence_;
  for (Change& change : changes) {
    change.sequence = ++sequence;
    static_cast<void>(batch.Put(families_[kChanges], ChangeKey(sequence), EncodeChange(change)));
  }
  const rocksdb::Status status = db_->Write(rocksdb::WriteOptions(), &batch);
  if (!status.ok()) return Wrap(action, status);
  last_sequence_ = sequence;
  return {};
}

Status Store::PutDocument(const Document& document) {
  if (!document.loss_mask.empty() && document.loss_mask.size() != document.tokens.size()) {
    return Invalid(fmt::format("document {}: loss mask of {} for {} tokens; give one mask byte per token",
                               document.source, document.loss_mask.size(), document.tokens.size()));
  }
  return Guarded(directory_, [&]() -> Status {
    const std::scoped_lock lock(write_mutex_);
    rocksdb::WriteBatch batch;
    static_cast<void>(batch.Put(families_[kDocuments], DocumentKey(document.hash), EncodeDocument(document)));
    return Commit(batch, {{.kind = ChangeKind::kPutDocument, .document = document.hash, .setting = {}}},
                  "write a document");
  });
}

Result<Document> Store::GetDocument(uint64_t hash) {
  return Guarded(directory_, [&] { return FindDocument(hash); });
}

Result<Document> Store::FindDocument(uint64_t hash) {
  const std::string key = DocumentKey(hash);
  auto value = Get(kDocuments, key, "read a document");
  if (!value.ok() && value.error().code == ErrorCode::kNotFound) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no document {}; `pointsman docs list` names them",
                                                   directory_.string(), DocumentIdText(hash))};
  }
  if (!value.ok()) return value.error();
  std::optional<Document> document = DecodeDocument(key, value.value());
  if (!document) return RecordError(directory_, kDocuments, "undecodable document " + DocumentIdText(hash));
  return *std::move(document);
}

Status Store::ForEachDocument(const std::function<Status(const Document&)>& visit) {
  return Iterate(kDocuments, {}, {}, [&](std::string_view key, std::string_view value) -> Status {
    const std::optional<Document> document = DecodeDocument(key, value);
    return document ? visit(*document) : RecordError(directory_, kDocuments, "an undecodable document");
  });
}

// One range tombstone a layer, because a document's entries are contiguous inside a layer.
Status Store::DeleteEntriesOf(uint64_t hash, rocksdb::WriteBatch& batch) {
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(Scan(), families_[kEntries]));
  it->SeekToFirst();
  while (it->Valid()) {
    const std::optional<StoredEntry> entry = DecodeEntry(AsView(it->key()), AsView(it->value()));
    if (!entry) return RecordError(directory_, kEntries, "an undecodable entry");
    const std::string first = EntryKey(entry->layer, {hash, 0});
    const std::string past_last = EntryKey(entry->layer, {hash, UINT32_MAX}) + '\0';
    static_cast<void>(batch.DeleteRange(families_[kEntries], first, past_last));
    if (entry->layer == INT32_MAX) break;
    it->Seek(LayerKey(entry->layer + 1));
  }
  return it->status().ok() ? Status() : Wrap("read entries", it->status());
}

Status Store::DeleteDocument(uint64_t hash) {
  return Guarded(directory_, [&]() -> Status {
    const std::scoped_lock lock(write_mutex_);
    const auto document = FindDocument(hash);
    if (!document.ok()) return document.error();
    rocksdb::WriteBatch batch;
    static_cast<void>(batch.Delete(families_[kDocuments], DocumentKey(hash)));
    POINTSMAN_CHECK_OK(DeleteEntriesOf(hash, batch));
    return Commit(batch, {{.kind = ChangeKind::kDeleteDocument, .document = hash, .setting = {}}}, "delete a document");
  });
}

Status Store::PutEntries(std::span<const StoredEntry> entries) {
  return Guarded(directory_, [&]() -> Status {
    const std::scoped_lock lock(write_mutex_);
    rocksdb::WriteBatch batch;
    std::set<uint64_t> documents;
    for (const StoredEntry& entry : entries) {
      if (entry.layer < 0 || !std::isfinite(entry.code_scale) || !std::isfinite(entry.value_scale)) {
        return Invalid(fmt::format("entry of document {} at {}: layer {} and scales {}, {} must be >= 0 and finite",
                                   DocumentIdText(entry.id.document), entry.id.position, entry.layer, entry.code_scale,
                                   entry.value_scale));
      }
      documents.insert(entry.id.document);
      static_cast<void>(batch.Put(families_[kEntries], EntryKey(entry.layer, entry.id), EncodeEntry(entry)));
    }
    std::vector<Change> changes;
    for (const uint64_t hash : documents) {
      const auto document = Get(kDocuments, DocumentKey(hash), "read a document");
      if (!document.ok() && document.error().code == ErrorCode::kNotFound) {
        return Invalid(fmt::format("{}: entries of document {}, which is not stored; put the document first",
                                   directory_.string(), DocumentIdText(hash)));
      }
      if (!document.ok()) return document.error();
      changes.push_back({.kind = ChangeKind::kPutEntries, .document = hash, .setting = {}});
    }
    return changes.empty() ? Status() : Commit(batch, std::move(changes), "write entries");
  });
}

Status Store::ForEachEntry(int32_t layer, const std::function<Status(const StoredEntry&)>& visit) {
  const std::string prefix = LayerKey(layer);
  return Iterate(kEntries, prefix, prefix, [&](std::string_view key, std::string_view value) -> Status {
    const std::optional<StoredEntry> entry = DecodeEntry(key, value);
    return entry ? visit(*entry) : RecordError(directory_, kEntries, "an undecodable entry");
  });
}

Status Store::PutSetting(std::string_view key, std::string_view bytes) {
  if (key.empty() || key.size() > kMaxSettingKeyBytes || bytes.size() > kMaxSettingBytes) {
    return Invalid(
        fmt::format("setting `{}` of {} bytes: a key has 1 to {} bytes and a blob at most {}; split the blob",
                    key.substr(0, 64), bytes.size(), kMaxSettingKeyBytes, kMaxSettingBytes));
  }
  return Guarded(directory_, [&]() -> Status {
    const std::scoped_lock lock(write_mutex_);
    rocksdb::WriteBatch batch;
    static_cast<void>(batch.Put(families_[kSettings], AsSlice(key), AsSlice(bytes)));
    return Commit(batch, {{.kind = ChangeKind::kPutSetting, .setting = std::string(key)}}, "write a setting");
  });
}

Result<std::string> Store::GetSetting(std::string_view key) {
  return Guarded(directory_, [&]() -> Result<std::string> {
    auto value = Get(kSettings, key, "read a setting");
    if (!value.ok() && value.error().code == ErrorCode::kNotFound) {
      return Error{ErrorCode::kNotFound, fmt::format("{}: no setting `{}`", directory_.string(), key)};
    }
    return value;
  });
}

Status Store::DeleteSetting(std::string_view key) {
  return Guarded(directory_, [&]() -> Status {
    const std::scoped_lock lock(write_mutex_);
    const auto value = Get(kSettings, key, "read a setting");
    if (!value.ok() && value.error().code == ErrorCode::kNotFound) return {};
    rocksdb::WriteBatch batch;
    static_cast<void>(batch.Delete(families_[kSettings], AsSlice(key)));
    return Commit(batch, {{.kind = ChangeKind::kPutSetting, .setting = std::string(key)}}, "delete a setting");
  });
}

Result<std::vector<std::string>> Store::ListSettings(std::string_view prefix) {
  std::vector<std::string> keys;
  POINTSMAN_CHECK_OK(Iterate(kSettings, prefix, prefix, [&](std::string_view key, std::string_view) -> Status {
    keys.emplace_back(key);
    return {};
  }));
  return keys;
}

// A checkpoint needs the files to stay until it has linked them, which only their writer can promise; a reader copies
// the records.
Status Store::CopyTo(const fs::path& directory) {
  return Guarded(directory_, [&]() -> Status {
    if (read_only_) {
      Store other(directory);
      POINTSMAN_CHECK_OK(other.Open(/*create=*/true, /*read_only=*/false, nullptr));
      return CopyRecordsTo(other);
    }
    rocksdb::Checkpoint* made = nullptr;
    rocksdb::Status status = rocksdb::Checkpoint::Create(db_.get(), &made);
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
    if (status.ok()) status = checkpoint->CreateCheckpoint(directory.string());
    return status.ok() ? Status() : Wrap("copy it", status);
  });
}

Status Store::CopyRecordsTo(Store& other) {
  constexpr size_t kBatchBytes = size_t{4} << 20;
  rocksdb::WriteOptions unlogged;  // flushed below
  unlogged.disableWAL = true;
  for (int family = 0; family < kFamilies; ++family) {
    rocksdb::WriteBatch batch;
    const auto write = [&]() -> Status {
      const rocksdb::Status status = other.db_->Write(unlogged, &batch);
      batch.Clear();
      return status.ok() ? Status() : other.Wrap("write a copy", status);
    };
    POINTSMAN_CHECK_OK(
        Iterate(static_cast<Family>(family), {}, {}, [&](std::string_view key, std::string_view value) -> Status {
          static_cast<void>(batch.Put(other.families_[static_cast<size_t>(family)], AsSlice(key), AsSlice(value)));
          return batch.GetDataSize() < kBatchBytes ? Status() : write();
        }));
    POINTSMAN_CHECK_OK(write());
  }
  const rocksdb::Status flushed = other.db_->Flush(rocksdb::FlushOptions(), other.families_);
  return flushed.ok() ? Status() : other.Wrap("write a copy", flushed);
}

Status Store::ForEachChange(uint64_t after, const std::function<Status(const Change&)>& visit) {
  if (after == UINT64_MAX) return {};
  return Iterate(kChanges, ChangeKey(after + 1), {}, [&](std::string_view key, std::string_view value) -> Status {
    const std::optional<Change> change = DecodeChange(key, value);
    return change ? visit(*change) : RecordError(directory_, kChanges, "an undecodable change");
  });
}

Status Store::Sync() {
  if (read_only_) return {};
  return Guarded(directory_, [&]() -> Status {
    const rocksdb::Status status = db_->FlushWAL(/*sync=*/true);
    return status.ok() ? Status() : Wrap("sync", status);
  });
}

// The log and the memtables into tables, every table rewritten, then the files that this leaves behind away at once:
// RocksDB would remove them some time later, from a background thread.
Status Store::Compact() {
  if (read_only_) return Invalid(fmt::format("{}: cannot compact: opened for reading", directory_.string()));
  return Guarded(directory_, [&]() -> Status {
    const std::scoped_lock lock(write_mutex_);
    rocksdb::FlushOptions flush;
    flush.wait = true;
    rocksdb::Status status = db_->Flush(flush, families_);
    rocksdb::CompactRangeOptions options;
    options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
    for (rocksdb::ColumnFamilyHandle* family : families_) {
      if (status.ok()) status = db_->CompactRange(options, family, nullptr, nullptr);
    }
    if (status.ok()) status = db_->SyncWAL();
    if (status.ok()) status = db_->PauseBackgroundWork();  // waits for what runs
    if (status.ok()) status = db_->ContinueBackgroundWork();
    if (status.ok()) status = db_->EnableFileDeletions(/*force=*/true);  // removes obsolete files on this thread
    return status.ok() ? Status() : Wrap("compact", status);
  });
}

Status Store::CheckRecords() {
  const rocksdb::Status checksums = db_->VerifyChecksum(Scan());
  if (!checksums.ok()) return Wrap("verify checksums", checksums);
  std::set<uint64_t> documents;
  POINTSMAN_CHECK_OK(ForEachDocument([&](const Document& document) -> Status {
    documents.insert(document.hash);
    return {};
  }));
  POINTSMAN_CHECK_OK(Iterate(kEntries, {}, {}, [&](std::string_view key, std::string_view value) -> Status {
    const std::optional<StoredEntry> entry = DecodeEntry(key, value);
    if (!entry) return RecordError(directory_, kEntries, "an undecodable entry");
    if (documents.contains(entry->id.document)) return {};
    return RecordError(directory_, kEntries, "an entry of absent document " + DocumentIdText(entry->id.document));
  }));
  POINTSMAN_CHECK_OK(Iterate(kSettings, {}, {}, [](std::string_view, std::string_view) { return Status(); }));
  uint64_t expected = 1;
  return ForEachChange(0, [&](const Change& change) -> Status {
    if (change.sequence == expected++) return {};
    return RecordError(directory_, kChanges, fmt::format("change {} follows change {}", change.sequence, expected - 2));
  });
}

// What was there at one moment. A writer beside this may replace files between RocksDB's look at its manifest, its logs
// and its tables: some reads would then be errors, and one that misses a log could leave out changes.
Result<std::unique_ptr<Store>> OpenView(const fs::path& directory) {
  std::unique_ptr<Store> store;
  POINTSMAN_CHECK_OK(OpenUndisturbed(directory, [&] {
    return Guarded(directory, [&] {
      store = std::make_unique<Store>(directory);
      return store->Open(/*create=*/false, /*read_only=*/true, nullptr);
    });
  }));
  return store;
}

}  // namespace

Result<std::unique_ptr<EntryStore>> RocksDbStore::Open(const fs::path& directory, bool create, rocksdb::Env* env) {
  return Guarded(directory, [&]() -> Result<std::unique_ptr<EntryStore>> {
    auto store = std::make_unique<Store>(directory);
    POINTSMAN_CHECK_OK(store->Open(create, /*read_only=*/false, env));
    return std::unique_ptr<EntryStore>(std::move(store));
  });
}

Result<std::unique_ptr<EntryStore>> RocksDbStore::OpenReadOnly(const fs::path& directory) {
  POINTSMAN_TRY(std::unique_ptr<Store> store, OpenView(directory));
  return std::unique_ptr<EntryStore>(std::move(store));
}

Result<uint64_t> RocksDbStore::PeekLastSequence(const fs::path& directory) {
  POINTSMAN_TRY(const std::unique_ptr<EntryStore> store, OpenReadOnly(directory));
  return store->LastSequence();
}

Result<uint64_t> RocksDbStore::Check(const fs::path& directory) {
  return Guarded(directory, [&]() -> Result<uint64_t> {
    POINTSMAN_TRY(const std::unique_ptr<Store> store, OpenView(directory));
    POINTSMAN_CHECK_OK(store->CheckRecords());
    return store->LastSequence();
  });
}

}  // namespace pointsman
