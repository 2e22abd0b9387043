// How Pointsman sets RocksDB up, and how it reads RocksDB's errors. Only for rocksdb_store.cc: nothing else sees
// RocksDB.
#pragma once

#include <rocksdb/options.h>
#include <rocksdb/status.h>

#include <filesystem>
#include <string_view>

#include "memory/result.h"

namespace pointsman {

inline constexpr const char* kTruthRemedy =
    "`pointsman verify` lists the damage; restore the memory from a snapshot or build it again";

// Every checksum on, write-ahead log recovered to a prefix over all column families, two background threads, bounded
// memory and open files, no LOG files, nothing mapped.
rocksdb::Options MakeRocksDbOptions(bool create, rocksdb::Env* env);

// "<directory>: cannot <action>: <RocksDB's text>; <remedy>" on one line. REQUIRES: !status.ok().
Error RocksDbError(const std::filesystem::path& directory, std::string_view action, const rocksdb::Status& status);

// The remains of a store without its CURRENT file: RocksDB would create a new one over them and delete them.
bool LostItsCurrentFile(const std::filesystem::path& directory);

}  // namespace pointsman
