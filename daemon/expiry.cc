#include "daemon/expiry.h"

#include <vector>

#include "memory/deletion.h"

namespace pointsman {

Result<uint64_t> RemoveExpired(MemoryRegistry& memories, const std::string& id, int64_t now_unix_s) {
  POINTSMAN_TRY(const MemoryUse use, memories.Find(id));
  {
    // Looked at without the writers' lock: most of the time there is nothing to do.
    POINTSMAN_TRY(const auto truth, use.loaded->memory->OpenTruth());
    POINTSMAN_TRY(const std::vector<uint64_t> expired, ExpiredDocuments(*truth, now_unix_s));
    if (expired.empty()) return uint64_t{0};
  }
  uint64_t removed = 0;
  {
    POINTSMAN_TRY(const auto writer, MemoryWriter::Open(use.loaded->settings.directory, {}));
    POINTSMAN_TRY(const std::vector<uint64_t> expired, ExpiredDocuments(writer->store(), now_unix_s));
    POINTSMAN_TRY(const DeletionReport report, DeleteDocuments(*writer, expired));
    removed = report.documents;
  }
  POINTSMAN_CHECK_OK(memories.Reload(id));
  return removed;
}

}  // namespace pointsman
