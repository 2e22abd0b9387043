// Where the parts of a memory directory are (docs/formats.md), and how its manifest is read.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "memory/derived_copy.h"
#include "memory/file_layer.h"
#include "memory/manifest.h"
#include "memory/memory.h"
#include "memory/result.h"

namespace pointsman {

inline std::filesystem::path ManifestPath(const std::filesystem::path& memory) { return memory / "MANIFEST.json"; }
inline std::filesystem::path TruthPath(const std::filesystem::path& memory) { return memory / "truth"; }
inline std::filesystem::path DerivedPath(const std::filesystem::path& memory) { return memory / "derived"; }
// What a build keeps: trained kinds that are not published, and finished stages of an interrupted build.
inline std::filesystem::path KindsPath(const std::filesystem::path& memory) { return memory / "kinds"; }
inline std::filesystem::path StagesPath(const std::filesystem::path& memory) { return memory / "build"; }
inline std::filesystem::path GenerationPath(const std::filesystem::path& memory, uint64_t generation) {
  return DerivedPath(memory) / GenerationName(generation);
}

// Where a restore makes the memory that will take this one's place; `memory` without a slash at its end.
inline std::filesystem::path RestoringPath(const std::filesystem::path& memory) {
  return memory.string() + ".restoring.tmp";
}
// Sizes of all files; 0 where nothing is.
uint64_t BytesUnder(const std::filesystem::path& directory);

// kNotFound without one, kCorrupt, kUnsupported.
Result<Manifest> ReadManifestFile(FileSystem& files, const std::filesystem::path& memory);
// Maps the generation that `manifest` publishes and checks that it is what the manifest says. A missing or damaged file
// is kCorrupt with the remedy. `check_digest` also recomputes the digest, which reads everything.
Result<RoutingTables> OpenPublished(FileSystem& files, const std::filesystem::path& memory, const Manifest& manifest,
                                    bool load_to_ram, bool verify, bool check_digest);

// Verify() for a caller that keeps writers out by itself. `directory` holds a memory.
Result<std::vector<Finding>> CheckMemory(FileSystem& files, const std::filesystem::path& directory);

}  // namespace pointsman
