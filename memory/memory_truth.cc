// Apart from memory.cc, so that a program which only routes links without RocksDB.
#include "memory/memory.h"
#include "memory/memory_paths.h"
#include "memory/rocksdb_store.h"

namespace pointsman {

Result<std::unique_ptr<EntryStore>> Memory::OpenTruth() const {
  return RocksDbStore::OpenReadOnly(TruthPath(directory_));
}

}  // namespace pointsman
