#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <optional>
#include <utility>

#include "memory/derived_copy.h"
#include "memory/document_id.h"
#include "memory/generation.h"
#include "memory/memory.h"
#include "memory/memory_paths.h"
#include "memory/rocksdb_store.h"
#include "memory/writer_lock.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// Refuses to make a memory among foreign files; kNotFound where nothing is and nothing may be made.
Status CheckTarget(FileSystem& files, const fs::path& directory, bool create) {
  if (files.Exists(ManifestPath(directory)) || files.Exists(TruthPath(directory))) return {};
  if (!create) {
    return Error{
        ErrorCode::kNotFound,
        fmt::format("{}: not a memory; check the path or build one with `pointsman build`", directory.string())};
  }
  if (!files.Exists(directory)) return {};
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(directory));
  if (names.empty() || names == std::vector<std::string>{"LOCK"}) return {};
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("{}: holds files that are not a memory ({}); choose a new or empty directory",
                           directory.string(), names.front())};
}

// What a killed writer leaves. Only names that writers make: a memory may lie beside the user's files.
Status SweepTemporaries(FileSystem& files, const fs::path& directory) {
  POINTSMAN_CHECK_OK(files.Remove(ManifestPath(directory).string() + ".tmp"));
  const fs::path derived = DerivedPath(directory);
  if (!files.Exists(derived)) return {};
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(derived));
  for (const std::string& name : names) {
    if (name.ends_with(".tmp")) POINTSMAN_CHECK_OK(files.Remove(derived / name));
  }
  return {};
}

// The published manifest, nothing before the first publish.
Result<std::optional<Manifest>> ReadPublished(FileSystem& files, const fs::path& directory) {
  auto manifest = ReadManifestFile(files, directory);
  if (manifest.ok()) return std::optional<Manifest>(std::move(manifest).value());
  if (manifest.error().code == ErrorCode::kNotFound) return std::optional<Manifest>();
  return manifest.error();
}

Error TruthMissing(const fs::path& truth) {
  return {ErrorCode::kCorrupt,
          fmt::format("{}: missing; restore the memory from a snapshot or build it again", truth.string())};
}

// Read-only, because RocksDB's own open would delete the files that a damaged or lost file of it no longer names.
Status CheckTruthReaches(const fs::path& truth, uint64_t published_sequence) {
  const auto last = RocksDbStore::PeekLastSequence(truth);
  if (!last.ok()) return last.error().code == ErrorCode::kNotFound ? TruthMissing(truth) : last.error();
  if (last.value() >= published_sequence) return {};
  return Error{ErrorCode::kCorrupt, fmt::format("{}: ends at change {}, {} were published; restore the memory from a "
                                                "snapshot or build it again",
                                                truth.string(), last.value(), published_sequence)};
}

std::string NowUtc() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

}  // namespace

struct MemoryWriter::Impl {
  fs::path directory;
  FileSystem& files;
  WriterLock lock;
  std::unique_ptr<EntryStore> store = nullptr;

  Result<uint64_t> NextGeneration(const std::optional<Manifest>& published) const;
  Status WriteDerived(const RoutingTables& tables, uint64_t generation);
  Status WriteManifest(const Manifest& manifest);
  Status Keep(const Manifest& published);
  Result<Manifest> FindKept(const Manifest& published, uint64_t generation) const;
  Status CheckNothingDeletedSince(const Manifest& kept) const;
  void RemoveUnpublished(uint64_t generation);
  void RemoveOldGenerations(uint64_t newest, uint64_t previous);
  Status RestoreDerived(const Manifest& manifest);
};

// One more than any that was published or left behind, so that no directory is ever written twice.
Result<uint64_t> MemoryWriter::Impl::NextGeneration(const std::optional<Manifest>& published) const {
  POINTSMAN_TRY(uint64_t last, GenerationFloor(*store));
  if (published) last = std::max(last, published->generation);
  if (files.Exists(DerivedPath(directory))) {
    POINTSMAN_TRY(const std::vector<std::string> names, files.List(DerivedPath(directory)));
    for (const std::string& name : names) last = std::max(last, GenerationNumber(name));
  }
  return last + 1;
}

// Files under a temporary name, read back and checked, copied into truth, then renamed.
Status MemoryWriter::Impl::WriteDerived(const RoutingTables& tables, uint64_t generation) {
  const fs::path final_path = GenerationPath(directory, generation);
  const fs::path temporary = final_path.string() + ".tmp";
  POINTSMAN_CHECK_OK(files.Remove(temporary));
  POINTSMAN_CHECK_OK(files.CreateDirectories(DerivedPath(directory)));
  POINTSMAN_CHECK_OK(files.SyncDirectory(directory));
  POINTSMAN_CHECK_OK(WriteGeneration(files, temporary, tables));
  if (auto written = MapGeneration(files, temporary, /*load_to_ram=*/false, /*verify=*/true); !written.ok()) {
    return written.error();
  }
  POINTSMAN_CHECK_OK(CopyIntoTruth(files, temporary, generation, *store));
  POINTSMAN_CHECK_OK(files.Rename(temporary, final_path));
  return files.SyncDirectory(DerivedPath(directory));
}

// Into truth first: after a crash in between, truth may know a manifest that was not published, never the reverse.
Status MemoryWriter::Impl::WriteManifest(const Manifest& manifest) {
  Manifest complete = manifest;
  complete.truth_sequence = store->LastSequence() + 1;  // the copy below is that change
  const std::string json = SerializeManifest(complete);
  if (auto parsed = ParseManifest(json, "manifest"); !parsed.ok()) {
    return Error{ErrorCode::kInvalidArgument, parsed.error().message};
  }
  POINTSMAN_CHECK_OK(PutManifestCopy(*store, complete.generation, json));
  POINTSMAN_CHECK_OK(store->Sync());
  return files.WriteAtomically(ManifestPath(directory), json);
}

// For a rollback. Of no effect as long as it is the published one.
Status MemoryWriter::Impl::Keep(const Manifest& published) {
  return KeepManifest(*store, published.generation, SerializeManifest(published));
}

// What a rollback goes to: `generation`, or of all that are kept the one that was published last.
Result<Manifest> MemoryWriter::Impl::FindKept(const Manifest& published, uint64_t generation) const {
  POINTSMAN_TRY(const auto kept, KeptManifests(*store));
  std::optional<Manifest> found;
  std::string numbers;
  for (const auto& [number, json] : kept) {
    if (number == published.generation || !files.Exists(GenerationPath(directory, number))) continue;
    POINTSMAN_TRY(Manifest manifest, ParseManifest(json, TruthPath(directory).string()));
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(number);
    const bool later = !found || manifest.truth_sequence > found->truth_sequence;
    if (generation == 0 ? later : number == generation) found = std::move(manifest);
  }
  if (found) return *std::move(found);
  return Error{ErrorCode::kNotFound,
               fmt::format("{}: generation {} is published, {}", directory.string(), published.generation,
                           numbers.empty() ? "and no other is kept; restore a snapshot"
                                           : "of the others only " + numbers + " is kept")};
}

Status MemoryWriter::Impl::CheckNothingDeletedSince(const Manifest& kept) const {
  return store->ForEachChange(kept.truth_sequence, [&](const Change& change) -> Status {
    if (change.kind != ChangeKind::kDeleteDocument) return {};
    const auto document = store->GetDocument(change.document);
    if (document.ok()) return {};  // put again
    if (document.error().code != ErrorCode::kNotFound) return document.error();
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}: document {} was deleted since generation {}, which may still route with it; "
                             "build the memory again",
                             directory.string(), DocumentIdText(change.document), kept.generation)};
  });
}

// Frees the space of a failed publish, if it can. Best effort: what stays is never read and goes with the next publish.
void MemoryWriter::Impl::RemoveUnpublished(uint64_t generation) {
  const auto manifest = ReadManifestFile(files, directory);
  const bool unpublished =
      manifest.ok() ? manifest.value().generation != generation : manifest.error().code == ErrorCode::kNotFound;
  if (!unpublished) return;  // the rename happened, the sync after it failed
  const fs::path path = GenerationPath(directory, generation);
  static_cast<void>(files.Remove(path.string() + ".tmp"));
  static_cast<void>(files.Remove(path));
  static_cast<void>(DropCopy(*store, generation));
}

// Best effort as well: the new generation is published whether or not the old ones can be removed.
void MemoryWriter::Impl::RemoveOldGenerations(uint64_t newest, uint64_t previous) {
  static_cast<void>(DropCopiesExcept(*store, newest));
  static_cast<void>(DropKeptManifestsExcept(*store, previous));
  const auto names = files.List(DerivedPath(directory));
  if (!names.ok()) return;
  for (const std::string& name : names.value()) {
    const uint64_t generation = GenerationNumber(name);
    if (generation == 0 || generation == newest || generation == previous) continue;
    static_cast<void>(files.Remove(DerivedPath(directory) / name));
  }
}

Status MemoryWriter::Impl::RestoreDerived(const Manifest& manifest) {
  const fs::path final_path = GenerationPath(directory, manifest.generation);
  const fs::path restored = final_path.string() + ".tmp";
  const fs::path damaged = final_path.string() + ".damaged.tmp";
  POINTSMAN_CHECK_OK(files.Remove(restored));
  POINTSMAN_CHECK_OK(RestoreFromTruth(files, *store, manifest.generation, restored));
  POINTSMAN_TRY(const RoutingTables tables, MapGeneration(files, restored, /*load_to_ram=*/false, /*verify=*/true));
  if (!manifest.digest.empty() && Digest(tables) != manifest.digest) {
    return Error{
        ErrorCode::kCorrupt,
        fmt::format("{}: its copy of {} is not what MANIFEST.json publishes; restore the memory from a snapshot",
                    TruthPath(directory).string(), GenerationName(manifest.generation))};
  }
  // A directory cannot be renamed over another; readers that mapped the damaged one keep it.
  if (files.Exists(final_path)) POINTSMAN_CHECK_OK(files.Rename(final_path, damaged));
  POINTSMAN_CHECK_OK(files.Rename(restored, final_path));
  POINTSMAN_CHECK_OK(files.SyncDirectory(DerivedPath(directory)));
  return files.Remove(damaged);
}

MemoryWriter::MemoryWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MemoryWriter::~MemoryWriter() = default;

Result<std::unique_ptr<MemoryWriter>> MemoryWriter::Open(const fs::path& directory, const WriterOptions& options) {
  FileSystem& files = options.files != nullptr ? *options.files : FileSystem::Real();
  POINTSMAN_CHECK_OK(CheckTarget(files, directory, options.create));
  if (options.create) POINTSMAN_CHECK_OK(files.CreateDirectories(directory));
  POINTSMAN_TRY(WriterLock lock, WriterLock::Acquire(directory));
  POINTSMAN_CHECK_OK(SweepTemporaries(files, directory));
  const auto manifest = ReadManifestFile(files, directory);
  if (!manifest.ok() && manifest.error().code == ErrorCode::kUnsupported) return manifest.error();

  auto impl = std::unique_ptr<Impl>(new Impl{directory, files, std::move(lock)});
  // Truth that vanished from under a manifest must not come back empty.
  const bool create = options.create && !files.Exists(ManifestPath(directory));
  if (manifest.ok()) POINTSMAN_CHECK_OK(CheckTruthReaches(TruthPath(directory), manifest.value().truth_sequence));
  auto store = RocksDbStore::Open(TruthPath(directory), create, options.store_env);
  if (!store.ok() && store.error().code == ErrorCode::kNotFound) return TruthMissing(TruthPath(directory));
  if (!store.ok()) return store.error();
  impl->store = std::move(store).value();
  return std::unique_ptr<MemoryWriter>(new MemoryWriter(std::move(impl)));
}

EntryStore& MemoryWriter::store() { return *impl_->store; }

const fs::path& MemoryWriter::directory() const { return impl_->directory; }

Result<RoutingTables> MemoryWriter::PublishedTables() const {
  POINTSMAN_TRY(const Manifest published, manifest());
  return OpenPublished(impl_->files, impl_->directory, published, /*load_to_ram=*/true, /*verify=*/true,
                       /*check_digest=*/false);
}

Status MemoryWriter::Publish(const RoutingTables& tables, Manifest manifest) {
  POINTSMAN_TRY(const std::optional<Manifest> published, ReadPublished(impl_->files, impl_->directory));
  POINTSMAN_TRY(manifest.generation, impl_->NextGeneration(published));
  manifest.kind = tables.kind;
  manifest.value_kind = tables.value_kind;
  manifest.digest = Digest(tables);
  if (manifest.created.empty()) manifest.created = NowUtc();
  const auto publish = [&]() -> Status {
    POINTSMAN_CHECK_OK(impl_->WriteDerived(tables, manifest.generation));
    if (published) POINTSMAN_CHECK_OK(impl_->Keep(*published));
    return impl_->WriteManifest(manifest);
  };
  if (Status status = publish(); !status.ok()) {
    impl_->RemoveUnpublished(manifest.generation);
    return status;
  }
  impl_->RemoveOldGenerations(manifest.generation, published ? published->generation : 0);
  return {};
}

Status MemoryWriter::UpdateManifest(const Manifest& manifest) {
  POINTSMAN_TRY(const Manifest published, this->manifest());
  Manifest updated = manifest;
  updated.generation = published.generation;
  updated.kind = published.kind;
  updated.value_kind = published.value_kind;
  updated.digest = published.digest;
  if (updated.created.empty()) updated.created = published.created;
  return impl_->WriteManifest(updated);
}

Result<Manifest> MemoryWriter::manifest() const { return ReadManifestFile(impl_->files, impl_->directory); }

Result<uint64_t> MemoryWriter::Rollback(uint64_t generation) {
  POINTSMAN_TRY(const Manifest published, manifest());
  if (generation == published.generation) return generation;
  POINTSMAN_TRY(const Manifest kept, impl_->FindKept(published, generation));
  POINTSMAN_CHECK_OK(impl_->CheckNothingDeletedSince(kept));
  if (auto sound = OpenPublished(impl_->files, impl_->directory, kept, /*load_to_ram=*/false, /*verify=*/true,
                                 /*check_digest=*/true);
      !sound.ok()) {
    return Error{sound.error().code,
                 fmt::format("generation {} cannot be published again: {}", kept.generation, sound.error().message)};
  }
  // All that going back and forth needs is in truth before the manifest is replaced.
  const fs::path files = GenerationPath(impl_->directory, kept.generation);
  POINTSMAN_CHECK_OK(CopyIntoTruth(impl_->files, files, kept.generation, *impl_->store));
  POINTSMAN_CHECK_OK(impl_->Keep(published));
  POINTSMAN_CHECK_OK(impl_->WriteManifest(kept));
  impl_->RemoveOldGenerations(kept.generation, published.generation);
  return kept.generation;
}

Status MemoryWriter::Purge() {
  POINTSMAN_TRY(const Manifest published, manifest());
  FileSystem& files = impl_->files;
  const fs::path derived = DerivedPath(impl_->directory);
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(derived));
  for (const std::string& name : names) {
    const bool other = GenerationNumber(name) != 0 && GenerationNumber(name) != published.generation;
    if (other || name.ends_with(".tmp")) POINTSMAN_CHECK_OK(files.Remove(derived / name));
  }
  POINTSMAN_CHECK_OK(files.SyncDirectory(derived));
  POINTSMAN_CHECK_OK(files.Remove(KindsPath(impl_->directory)));
  POINTSMAN_CHECK_OK(files.Remove(StagesPath(impl_->directory)));
  POINTSMAN_CHECK_OK(files.SyncDirectory(impl_->directory));
  POINTSMAN_CHECK_OK(DropCopiesExcept(*impl_->store, published.generation));
  POINTSMAN_CHECK_OK(DropKeptManifestsExcept(*impl_->store, 0));
  return impl_->store->Compact();
}

Status MemoryWriter::RebuildDerived() {
  auto manifest = this->manifest();
  std::optional<std::string> restored_json;
  if (!manifest.ok()) {
    if (manifest.error().code != ErrorCode::kNotFound && manifest.error().code != ErrorCode::kCorrupt) {
      return manifest.error();
    }
    auto copy = NewestManifestCopy(*impl_->store);
    if (!copy.ok()) return copy.error().code == ErrorCode::kNotFound ? manifest.error() : copy.error();
    restored_json = std::move(copy).value();
    manifest = ParseManifest(*restored_json, TruthPath(impl_->directory).string());
    if (!manifest.ok()) return manifest.error();
  }
  const auto sound = OpenPublished(impl_->files, impl_->directory, manifest.value(), /*load_to_ram=*/false,
                                   /*verify=*/true, /*check_digest=*/true);
  if (!sound.ok()) {
    if (sound.error().code != ErrorCode::kCorrupt) return sound.error();
    POINTSMAN_CHECK_OK(impl_->RestoreDerived(manifest.value()));
  }
  if (!restored_json) return {};
  return impl_->files.WriteAtomically(ManifestPath(impl_->directory), *restored_json);
}

}  // namespace pointsman
