#include "memory/rocksdb_options.h"

#include <fmt/format.h>
#include <rocksdb/env.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <memory>
#include <string>
#include <system_error>

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// RocksDB would otherwise leave a LOG file behind for every open.
class QuietLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// RocksDB has no status of its own for a lock that this or another process holds.
bool IsHeldLock(const std::string& reason) {
  return reason.find("lock hold by current process") != std::string::npos ||
         (reason.find("While lock file") != std::string::npos &&
          reason.find("Resource temporarily unavailable") != std::string::npos);
}

}  // namespace

rocksdb::Options MakeRocksDbOptions(bool create, rocksdb::Env* env) {
  rocksdb::Options options;
  if (env != nullptr) options.env = env;
  options.create_if_missing = create;
  options.create_missing_column_families = create;
  options.paranoid_checks = true;
  options.paranoid_file_checks = true;
  options.atomic_flush = true;  // a prefix of the sequence over all column families
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.track_and_verify_wals_in_manifest = true;
  options.max_background_jobs = 2;
  options.max_subcompactions = 1;
  options.max_open_files = 256;
  options.max_file_opening_threads = 1;
  options.db_write_buffer_size = size_t{64} << 20;
  options.max_total_wal_size = uint64_t{64} << 20;
  options.max_manifest_file_size = size_t{16} << 20;
  options.allow_mmap_reads = false;
  options.allow_mmap_writes = false;
  options.allow_fallocate = false;  // sizes on disk are then what was written
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.info_log = std::make_shared<QuietLogger>();
  options.compression = rocksdb::kLZ4Compression;
  rocksdb::BlockBasedTableOptions table;
  table.block_size = size_t{16} << 10;
  table.checksum = rocksdb::kXXH3;
  table.format_version = 5;
  table.verify_compression = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

Error RocksDbError(const fs::path& directory, std::string_view action, const rocksdb::Status& status) {
  std::string reason = status.ToString();
  std::replace_if(
      reason.begin(), reason.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  const auto error = [&](ErrorCode code, std::string_view remedy) {
    return Error{code, fmt::format("{}: cannot {}: {}; {}", directory.string(), action, reason, remedy)};
  };
  if (status.IsNoSpace()) {
    return error(ErrorCode::kNoSpace,
                 "free space on that file system and run the command again, nothing acknowledged is lost");
  }
  if (status.IsIOError() && IsHeldLock(reason)) {
    return error(ErrorCode::kBusy, "another process is using this memory: wait for it or stop it");
  }
  if (status.IsCorruption() || status.IsPathNotFound()) return error(ErrorCode::kCorrupt, kTruthRemedy);
  if (status.IsIOError()) return error(ErrorCode::kIo, "check the disk and the permissions");
  if (status.IsNotSupported()) return error(ErrorCode::kUnsupported, "open it with the Pointsman that wrote it");
  return error(ErrorCode::kInternal, "run the command again");
}

bool LostItsCurrentFile(const fs::path& directory) {
  std::error_code code;
  if (fs::exists(directory / "CURRENT", code)) return false;
  for (fs::directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("OPTIONS-")) return true;
  }
  return false;
}

}  // namespace pointsman
