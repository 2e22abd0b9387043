// A random memory on disk for the tests of the C interface and of what stands on it: references, documents and an
// output memory beside what test_tables.h has.
#pragma once

#include <filesystem>
#include <string>

#include "memory/memory.h"
#include "memory/test_support.h"
#include "router/test_tables.h"

namespace pointsman::testing {

inline OwnedTables RandomMemoryTables(uint32_t seed, ValueKind kind = ValueKind::kDelta) {
  OwnedTables tables = RandomOwnedTables(seed, {.kind = kind, .trained_parts = kind == ValueKind::kDelta});
  tables.documents = {"corpus/a.txt", "corpus/b.txt"};
  for (OwnedLayer& layer : tables.layers) {
    const auto rows = static_cast<uint32_t>(layer.keys.code_scales.size());
    for (uint32_t row = 0; row < rows; ++row) layer.references.push_back({row % 2, row / 2});
  }
  Random random(seed + 1000);
  tables.output = {.enabled = true, .vocabulary = kVocabulary, .k = 5, .tau = 0.1f, .lambda = 0.5f};
  tables.output.keys = RandomKeys(random, 20);
  for (int i = 0; i < 20; ++i) tables.output.next_tokens.push_back(static_cast<int32_t>(random.Below(kVocabulary)));
  return tables;
}

inline Status WriteMemory(const std::filesystem::path& directory, const RoutingTables& tables,
                          const std::string& verdict = "absent") {
  POINTSMAN_TRY(auto writer, MemoryWriter::Open(directory, {.create = true}));
  Manifest manifest = MakeManifest();
  manifest.verdict.verdict = verdict;
  return writer->Publish(tables, manifest);
}

}  // namespace pointsman::testing
