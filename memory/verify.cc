#include <fmt/format.h>

#include <optional>

#include "memory/memory.h"
#include "memory/memory_paths.h"
#include "memory/rocksdb_store.h"
#include "memory/writer_lock.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// An error about a memory's bytes is a finding; one about the system (permissions, memory) ends the check.
bool IsFinding(const Error& error) {
  return error.code == ErrorCode::kCorrupt || error.code == ErrorCode::kNotFound ||
         error.code == ErrorCode::kUnsupported;
}

// The text of a message that starts with the file it is about.
Finding MakeFinding(const fs::path& file, const Error& error) {
  const std::string prefix = file.string() + ": ";
  return {file.string(), error.message.starts_with(prefix) ? error.message.substr(prefix.size()) : error.message};
}

}  // namespace

Result<std::vector<Finding>> Verify(const fs::path& directory, FileSystem* files_or_null) {
  FileSystem& files = files_or_null != nullptr ? *files_or_null : FileSystem::Real();
  const fs::path truth = TruthPath(directory);
  if (!files.Exists(ManifestPath(directory)) && !files.Exists(truth)) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: not a memory; check the path", directory.string())};
  }
  std::optional<WriterLock> lock;  // no writer may change truth below; a read-only disk has none
  if (auto acquired = WriterLock::Acquire(directory); acquired.ok()) {
    lock = std::move(acquired).value();
  } else if (acquired.error().code == ErrorCode::kBusy) {
    return acquired.error();
  }
  return CheckMemory(files, directory);
}

Result<std::vector<Finding>> CheckMemory(FileSystem& files, const fs::path& directory) {
  const fs::path truth = TruthPath(directory);
  std::vector<Finding> findings;
  const auto manifest = ReadManifestFile(files, directory);
  if (!manifest.ok() && !IsFinding(manifest.error())) return manifest.error();
  if (!manifest.ok()) findings.push_back(MakeFinding(ManifestPath(directory), manifest.error()));
  if (manifest.ok()) {
    const auto tables = OpenPublished(files, directory, manifest.value(), /*load_to_ram=*/false, /*verify=*/true,
                                      /*check_digest=*/true);
    if (!tables.ok() && !IsFinding(tables.error())) return tables.error();
    if (!tables.ok()) {
      findings.push_back(MakeFinding(GenerationPath(directory, manifest.value().generation), tables.error()));
    }
  }

  const auto last_sequence = RocksDbStore::Check(truth);
  if (!last_sequence.ok() && !IsFinding(last_sequence.error())) return last_sequence.error();
  if (!last_sequence.ok()) {
    findings.push_back(MakeFinding(truth, last_sequence.error()));
  } else if (manifest.ok() && last_sequence.value() < manifest.value().truth_sequence) {
    findings.push_back(
        {truth.string(), fmt::format("ends at change {}, {} were published; restore the memory from a snapshot",
                                     last_sequence.value(), manifest.value().truth_sequence)});
  }
  return findings;
}

}  // namespace pointsman
