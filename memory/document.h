// A document: the unit of provenance, of splitting and of deletion.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

namespace pointsman {

// 64-bit hash of a document's content (XXH3 of its UTF-8 bytes and name) and a token position inside it.
struct EntryId {
  uint64_t document = 0;
  uint32_t position = 0;
  auto operator<=>(const EntryId&) const = default;
};

enum class SplitRole : uint8_t { kReference = 0, kCalibration = 1, kTest = 2 };

struct Document {
  uint64_t hash = 0;
  std::string source;    // as the user named it: a path, or path#line for a .jsonl row
  std::string sha256;    // lower-case hex of the content
  uint64_t cluster = 0;  // near-duplicates share one; the lowest document hash of the cluster
  SplitRole role = SplitRole::kReference;
  int64_t added_unix_s = 0;
  int64_t expires_unix_s = 0;  // `docs remove --expired` takes it from then on; 0 = never
  std::vector<std::string> tags;
  std::vector<int32_t> tokens;     // empty with --no-text
  std::vector<uint8_t> loss_mask;  // one per token, 1 = the model should learn to say it; empty = all 1
};

}  // namespace pointsman
