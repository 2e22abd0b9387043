// Near-duplicate clusters: generated copies of one file must not stand on both sides of a split (design.md 8).
//
// MinHash (Broder 1997) by one-permutation hashing with optimal densification (Shrivastava 2017): 128 bins over the
// XXH3 hashes of word 5-grams of the first 64 KiB of each text; candidates from 64 bands of 2 bins (a pair of Jaccard
// .5 is found with probability 1 - (1 - .25)^64 > 1 - 1e-8; .3: .998); a candidate pair is joined when the estimate
// from all bins is at least `min_jaccard`. Three things are evened out first, because files that differ in nothing else
// are copies: numbers, letter case, and the file's own name (generated families such as less.hpp and greater.hpp).
// Comments with a licence or copyright notice are left out (licence_comments.h): two files are not alike for their
// licence.
//
// Deterministic and order-free: the same documents in any order get the same clusters. One thread; measured: 15,928 C++
// headers of 157 MB in 1.9 s.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "indexer/ingest.h"

namespace pointsman {

struct NearDuplicateOptions {
  double min_jaccard = 0.5;
};

// For each document, the lowest RawDocument::hash of its cluster (its own where it stands alone). Clusters are the
// connected components of the near-duplicate pairs.
std::vector<uint64_t> ClusterNearDuplicates(std::span<const RawDocument> documents,
                                            const NearDuplicateOptions& options = {});

// A document of one set that is like one of another.
struct NearPair {
  size_t first = 0, second = 0;  // indices into the two sets
  double similarity = 0;         // estimated Jaccard of word 5-grams, evened out as above; standard error below .045
};

// Pairs of at least `min_jaccard` (use .3 or more: below, the search misses some), most similar first.
std::vector<NearPair> NearDuplicatePairs(std::span<const RawDocument> first, std::span<const RawDocument> second,
                                         double min_jaccard);

}  // namespace pointsman
