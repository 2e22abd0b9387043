// Copies of a generation's files inside truth, as settings "derived/<generation>/<file>/<chunk>", so that what routing
// reads can be restored bit for bit from the one place that is checksummed and synced record by record. (Trained
// prototypes cannot be recomputed from entries without the model; copying files is the same for every kind of memory.)
// For the thread that owns the store.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "memory/entry_store.h"
#include "memory/file_layer.h"
#include "memory/result.h"

namespace pointsman {

// "gen-001"; more digits when three do not suffice.
std::string GenerationName(uint64_t generation);
// The number, or 0 if `name` is not a generation's.
uint64_t GenerationNumber(std::string_view name);

// Every file of `directory` goes into truth as files of `generation`, in place of what a killed writer may have left
// there. Not synced.
Status CopyIntoTruth(FileSystem& files, const std::filesystem::path& directory, uint64_t generation, EntryStore& store);
// Writes the copies into `directory` (made, files synced). kNotFound if truth has none, kCorrupt if they are
// incomplete.
Status RestoreFromTruth(FileSystem& files, EntryStore& store, uint64_t generation,
                        const std::filesystem::path& directory);

// The manifest that publishes `generation`, kept beside its files; put after them, it marks the copy as complete.
Status PutManifestCopy(EntryStore& store, uint64_t generation, std::string_view json);
Result<std::string> GetManifestCopy(EntryStore& store, uint64_t generation);  // kNotFound

// Generations with a complete copy, ascending.
Result<std::vector<uint64_t>> CopiedGenerations(EntryStore& store);
// The manifest, among those of complete copies, that was written last: what is published, or about to be.
// kNotFound if there is none.
Result<std::string> NewestManifestCopy(EntryStore& store);
Status DropCopy(EntryStore& store, uint64_t generation);
Status DropCopiesExcept(EntryStore& store, uint64_t generation);

// Manifests of generations whose files are still there but which are not published: what rollback goes back to.
// Settings "kept/<generation>".
Status KeepManifest(EntryStore& store, uint64_t generation, std::string_view json);
Result<std::map<uint64_t, std::string>> KeptManifests(EntryStore& store);
Status DropKeptManifestsExcept(EntryStore& store, uint64_t generation);

// The highest generation number that a memory used that is gone: a restore replaced it. 0 = none. Setting "kept/floor".
Result<uint64_t> GenerationFloor(EntryStore& store);
Status RaiseGenerationFloor(EntryStore& store, uint64_t at_least);

}  // namespace pointsman
