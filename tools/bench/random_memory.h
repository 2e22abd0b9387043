// A memory of any size with random contents, for measuring: every array of a real one, in RAM.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/config.h"

namespace pointsman {

struct RandomMemorySpec {
  MemoryKind kind = MemoryKind::kEntries;
  uint64_t rows = 0;      // a layer
  uint32_t key_dim = 64;  // lowered to the hidden size
  uint64_t seed = 1;
};

// Keys, values and projections are random; the context gate's ramp lies below all evidence, so that every row is
// searched and changed. Prototypes come with router delta and token table.
std::shared_ptr<const RoutingTables> RandomMemory(const MoeConfig& shape, const RandomMemorySpec& spec);

// The same on disk, for hosts that open a directory. Its fingerprint is nobody's.
Status WriteRandomMemory(const std::filesystem::path& directory, const MoeConfig& shape, const RandomMemorySpec& spec);

}  // namespace pointsman
