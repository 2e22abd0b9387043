// The tables of a memory without some of its documents: what a deletion publishes.
//
//   entries      rows whose reference names a gone document are dropped, in every layer
//   prototypes   a prototype of whose references more than half are of gone documents is dropped; in the others those
//                references become {kNoDocument, kDeletedPosition}, so that a later deletion still counts them
//   output       rows whose reference names a gone document are dropped
//   gate         the token pairs that only gone documents of a group had are dropped from it, where that is known
//
// Names of gone documents are emptied, so that the numbers of the others stay. Trained parts that stand for no single
// document (transform, router delta, token table, calibration) stay as they are: bytes go, not influence. Without a row
// left a layer goes, without a layer or a pair everything: such a memory changes nothing.
// Pure function: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "memory/routing_tables.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {

// EntryRef::position of a prototype's reference whose document was deleted (its document is kNoDocument).
inline constexpr uint32_t kDeletedPosition = 0xffffffffu;

// The pairs of consecutive tokens of a set of documents, and the tokens that begin one (their pair in the gate has the
// model's end-of-text token before them, which memory/ does not know).
class DocumentPairs {
 public:
  void Add(std::span<const int32_t> tokens);
  // Sorts what was added; call it before the lookups.
  void Finish();
  bool HasPair(uint64_t pair) const;
  bool Begins(uint32_t token) const;

 private:
  std::vector<uint64_t> pairs_;
  std::vector<uint32_t> first_;
};

// Of reference documents, by group of the gate.
struct GatePairs {
  std::vector<DocumentPairs> remaining, gone;  // [groups]: what stays and what goes
};

struct Removal {
  OwnedTables tables = {};
  uint64_t rows = 0;         // dropped: entries of all layers, or prototypes
  uint64_t output_rows = 0;  // dropped
  uint64_t references = 0;   // of prototypes that stay, no longer naming a document
  uint64_t pairs = 0;        // dropped from the gate, or from one of its groups
};

// `names`: sources of the gone documents; those that the tables do not know change nothing, and so do empty ones.
// `pairs`: nullptr = unknown (no text), every pair stays.
Removal WithoutDocuments(const RoutingTables& tables, std::span<const std::string> names, const GatePairs* pairs);

}  // namespace pointsman
