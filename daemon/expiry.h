// Documents with a time to live leave the memories that the server has loaded, once their time has passed.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/memories.h"
#include "memory/result.h"

namespace pointsman {

// Deletes the expired documents of memory `id` (memory/deletion.h) and puts the generation without them in place.
// Returns how many went; 0 changes nothing. Errors: kBusy (another writer is at work: try later), those of
// DeleteDocuments and Reload. Reads and writes files: on a compute thread.
Result<uint64_t> RemoveExpired(MemoryRegistry& memories, const std::string& id, int64_t now_unix_s);

}  // namespace pointsman
