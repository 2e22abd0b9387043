#include <memory>

#include "memory/memory.h"
#include "memory/memory_paths.h"
#include "memory/snapshot_files.h"
#include "memory/writer_lock.h"

namespace pointsman {
namespace {

// What a killed restore left beside the memory; it is locked while a restore is at work.
Status SweepRestore(FileSystem& files, const std::filesystem::path& memory) {
  const std::filesystem::path left = RestoringPath(memory);
  if (!files.Exists(left)) return {};
  const auto lock = WriterLock::Acquire(left);
  if (!lock.ok()) return lock.error().code == ErrorCode::kBusy ? Status() : Status(lock.error());
  return files.Remove(left);
}

}  // namespace

Result<CompactReport> CompactMemory(const std::filesystem::path& directory, const WriterOptions& options) {
  FileSystem& files = options.files != nullptr ? *options.files : FileSystem::Real();
  const std::filesystem::path memory = WithoutSlash(directory);
  CompactReport report;
  report.bytes_before = BytesUnder(memory) + BytesUnder(RestoringPath(memory));
  {
    POINTSMAN_TRY(const auto writer, MemoryWriter::Open(memory, options));  // sweeps what it finds inside
    POINTSMAN_CHECK_OK(SweepRestore(files, memory));
    POINTSMAN_CHECK_OK(writer->store().Compact());
  }
  report.bytes_after = BytesUnder(memory) + BytesUnder(RestoringPath(memory));
  return report;
}

}  // namespace pointsman
