// From files to documents with tokens and roles, and from documents to the sequences that the model reads
// (stages 1 and the first half of 2 of design.md 8). Shared by build, eval, probe and plan.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adapt/sequences.h"
#include "indexer/ingest.h"
#include "indexer/split.h"
#include "memory/document.h"
#include "memory/result.h"
#include "models/config.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

struct Corpus {
  std::vector<Document> documents;  // with tokens; ordered by logical shard, then hash: the same for any thread count
  IngestReport report;
  uint64_t clusters = 0;    // of near-duplicates, over everything that was ingested
  uint64_t known_left = 0;  // near-duplicates of known text that were left out
};

// Documents are processed in this many logical shards (hash % kLogicalShards): the unit of order and of resume.
inline constexpr uint64_t kLogicalShards = 64;

// Ingests, clusters near-duplicates, splits by cluster and tokenises what the budgets take. Documents of
// ingest.groups have their group's name as a tag; split.groups are then as many.
Result<Corpus> PrepareCorpus(const Tokenizer& tokenizer, const IngestOptions& ingest, const SplitOptions& split);

// A test corpus: every document is kTest, but for those that are near-duplicates of one of `known` (what the memory was
// made from), which are left out and counted: a memory would recognise them.
Result<Corpus> PrepareTestCorpus(const Tokenizer& tokenizer, const IngestOptions& ingest, const SplitBudgets& budgets,
                                 uint64_t seed, std::span<const Document> known = {});

// Unrelated text, split by cluster: some is learned from (kReference: what the memory must not change, and which token
// pairs are common), some calibrates the gate (kCalibration), the rest measures damage (kTest).
Result<Corpus> PrepareGeneralText(const Tokenizer& tokenizer, const IngestOptions& ingest, uint64_t max_tokens,
                                  uint32_t max_tokens_per_document, uint64_t seed);

struct SequenceOptions {
  uint32_t context = 256;   // the model's
  int32_t end_of_text = 0;  // precedes the first token of a document
};

SequenceOptions SequenceOptionsOf(const MoeConfig& config);

// The windows of all documents of one role, in the documents' order, rows numbered. `document` and `group` of a
// sequence index `documents` and its distinct clusters.
std::vector<Sequence> MakeSequences(std::span<const Document> documents, SplitRole role,
                                    const SequenceOptions& options);

uint64_t CountTokens(std::span<const Document> documents, SplitRole role);
uint64_t CountDocuments(std::span<const Document> documents, SplitRole role);

}  // namespace pointsman
