// Deleting documents of a published memory, without the model: bytes go, not influence (design.md 6). What a trained
// value, transform or gate ramp learned from a deleted document stays until the memory is built again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/entry_store.h"
#include "memory/memory.h"
#include "memory/result.h"

namespace pointsman {

struct DeletionReport {
  uint64_t generation = 0;   // published without them
  uint64_t documents = 0;    // removed from truth, those of an interrupted deletion included
  uint64_t rows = 0;         // entries of all layers, or prototypes, that no longer route
  uint64_t output_rows = 0;  // of the output memory
  uint64_t references = 0;   // of prototypes that stay, no longer naming a document
  uint64_t pairs = 0;        // of the context gate
  bool pairs_known = true;   // false: the memory keeps no text, so the gate keeps the pairs of the deleted documents
};

// Deletes the documents `hashes` (any role):
//   1. notes what is to go, in truth, synced
//   2. publishes the next generation without them (without_documents.h): readers no longer see them. The verdict
//      becomes stale; counts, and the content hashes of the test split, follow.
//   3. removes them and their entries from truth
//   4. removes every other generation, and the trained kinds and build stages that may hold them, and compacts truth
//      (MemoryWriter::Purge): their text, names and entries are in no file of the memory. Copies of the memory
//      elsewhere (snapshots) are not touched, and neither is what the operating system leaves on the medium.
// What stays of a document is its 64-bit hash in the change sequence, which replicas follow.
//
// After a crash or an error at any point, the memory is whole and is what it was or on the way: the next call of this
// function, with these or other hashes or none, finishes what was begun.
// Two documents of one name go together from the published tables, where documents are known by name.
// Errors: kNotFound (a document is not there; nothing was changed; nothing published), kUnsupported (rows that do not
// say which document they come from), those of Publish and of the store.
Result<DeletionReport> DeleteDocuments(MemoryWriter& writer, std::span<const uint64_t> hashes);

// Hashes that an interrupted DeleteDocuments left to finish, ascending.
Result<std::vector<uint64_t>> PendingDeletions(EntryStore& store);

// Hashes of the documents whose time has passed at `now_unix_s`, ascending.
Result<std::vector<uint64_t>> ExpiredDocuments(EntryStore& store, int64_t now_unix_s);

}  // namespace pointsman
