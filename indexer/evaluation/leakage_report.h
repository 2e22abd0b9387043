// The figures of the leakage checks (leakage.h), as they stand in the report.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "indexer/evaluation/statistics.h"

namespace pointsman {

inline constexpr uint32_t kRepeatedRun = 50;       // tokens: longer than idioms, shorter than a licence notice
inline constexpr double kNearDuplicate = 0.5;      // of the split's clusters
inline constexpr double kNotableSimilarity = 0.3;  // named among the worst pairs, not counted as near-duplicate
inline constexpr size_t kWorstPairs = 5;

struct SimilarPair {
  std::string document, reference;  // names as the user gave them
  double similarity = 0;            // 0..1, estimated Jaccard
};

// Some scored text against the text that the memory was made from.
struct TextOverlap {
  uint64_t documents = 0, reference_documents = 0;
  uint64_t near_duplicates = 0;    // pairs of at least kNearDuplicate
  std::vector<SimilarPair> worst;  // of at least kNotableSimilarity, most similar first, at most kWorstPairs
  uint64_t tokens = 0;
  uint64_t repeated_tokens = 0;     // in runs of kRepeatedRun or more that the reference holds
  uint64_t repeated_documents = 0;  // with such a run
  uint64_t longest_run = 0;         // tokens; 0 = none
};

struct LeakageReport {
  TextOverlap test;       // test text against reference and calibration text
  TextOverlap unrelated;  // unrelated text (the damage half) against the same
  uint64_t left_out = 0;  // documents of a --test-corpus that were near-duplicates and are not scored
  // The memory's gain on the test tokens that are not repeated; absent without a memory or when none is repeated.
  std::optional<Estimate> gain_without_repeated;
};

}  // namespace pointsman
