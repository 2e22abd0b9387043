// The split: which documents the memory is made of, which stop and calibrate, which are scored (design.md 8).
//
// A role is a pure function of (cluster, seed), or of (library, seed): adding documents moves no other document. A
// cluster of near-duplicates stands on one side as a whole; by library, a library does too, and a document whose
// cluster belongs to a library of another role is left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "indexer/ingest.h"
#include "memory/document.h"
#include "memory/result.h"

namespace pointsman {

// Parts of the clusters; they need not sum to 1 (they are normalised).
struct SplitFractions {
  double reference = 0.80;
  double calibration = 0.07;
  double test = 0.13;
};

SplitRole AssignRole(uint64_t cluster, uint64_t seed, const SplitFractions& fractions = {});
SplitRole AssignLibraryRole(std::string_view library, uint64_t seed, const SplitFractions& fractions = {});

enum class SplitUnit : uint8_t { kCluster, kLibrary };

// How much of each role is wanted; 0 = no limit. A test split ends at whichever of its two limits is reached first.
struct SplitBudgets {
  uint64_t reference_tokens = 0;
  uint64_t calibration_tokens = 0;
  uint64_t test_tokens = 0;
  uint64_t test_documents = 0;
  uint32_t max_tokens_per_document = 4096;  // the first tokens of a longer document are used; 0 = all
  uint32_t min_tokens_per_document = 16;    // shorter documents are left out
  uint32_t max_documents_per_cluster = 2;   // so that generated copies do not dominate; 0 = all
};

struct SplitOptions {
  uint64_t seed = 0;
  uint32_t groups = 1;  // of documents (RawDocument::group): each has an equal part of every budget
  SplitUnit unit = SplitUnit::kCluster;
  SplitFractions fractions = {};
  SplitBudgets budgets = {};
};

struct SelectedDocument {
  size_t index = 0;  // into the documents given
  SplitRole role = SplitRole::kReference;
  uint32_t tokens = 0;  // use this many of its first tokens
};

// Tokens of documents[index]; called at most once an index and only for documents that may be taken, so that a large
// corpus is not tokenised for a small budget. An error ends the selection.
using TokenCounter = std::function<Result<uint64_t>(size_t index)>;

// Documents in the order of hash(seed, document) until each role's budget (of their group) is spent; the last one of a
// role is cut so that a token budget is met exactly. `clusters` is parallel to `documents`. The result is in that same
// order, so that its first half is as random as the whole. Errors: kInvalidArgument (clusters not parallel, fractions
// not positive, a group beyond options.groups), or the counter's.
Result<std::vector<SelectedDocument>> SelectDocuments(std::span<const RawDocument> documents,
                                                      std::span<const uint64_t> clusters, const SplitOptions& options,
                                                      const TokenCounter& count_tokens);

// The role of each document under `options`, without budgets; documents that are left out (see above) get nullopt.
std::vector<std::optional<SplitRole>> AssignRoles(std::span<const RawDocument> documents,
                                                  std::span<const uint64_t> clusters, const SplitOptions& options);

}  // namespace pointsman
