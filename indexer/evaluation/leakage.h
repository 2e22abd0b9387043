// Leakage: what of the scored text stands in the text that the memory was made from. Near-duplicate documents by the
// criterion of the split (near_duplicates.h), on the tokens that are used; and long runs of equal tokens, which find
// copied passages in documents that differ otherwise (licence headers, quoted text). A gain on such tokens is recall of
// a copy, so the report also tells the gain without them. Plain values, one thread, no LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "indexer/evaluation/leakage_report.h"
#include "memory/document.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

// Tokens of `documents` that lie in a run of kRepeatedRun tokens or more that `reference` holds too: one mask a
// document, 1 = repeated. Runs are compared by a 64-bit hash.
std::vector<std::vector<uint8_t>> RepeatedTokens(std::span<const Document> documents,
                                                 std::span<const Document> reference);

// Compares `documents` with `reference`; documents without tokens (--no-text) are not looked at.
TextOverlap FindOverlap(const Tokenizer& tokenizer, std::span<const Document> documents,
                        std::span<const Document> reference);

// The sentences for a person: what was found, and what it means.
std::vector<std::string> LeakageNotes(const LeakageReport& report);

}  // namespace pointsman
