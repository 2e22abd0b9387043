#include "indexer/near_duplicates.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "indexer/licence_comments.h"

namespace pointsman {
namespace {

constexpr size_t kTextBytes = 64 << 10;
constexpr size_t kShingleWords = 5;
constexpr size_t kBins = 128;
constexpr size_t kBands = 64, kRowsPerBand = kBins / kBands;
constexpr uint64_t kEmptyBin = std::numeric_limits<uint64_t>::max();

using Signature = std::array<uint32_t, kBins>;

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// "mpl/aux_/less_equal.hpp" -> "less_equal"; numbers as in the words. Empty when too short to be telling.
std::string Stem(const std::string& name) {
  const std::string file = name.substr(name.rfind('/') + 1);
  std::string stem;
  for (const char c : file.substr(0, file.find('.'))) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit || !stem.ends_with('0')) stem += digit ? '0' : Lower(c);
  }
  return stem.size() < 3 ? "" : stem;
}

// Hashes of the words: runs of letters, digits, '_' and bytes above ASCII, in lower case. Generated copies differ in
// their numbers and in their own name alone (vector20.hpp and vector30.hpp, less.hpp and greater.hpp), so every number
// is read as 0 and the file's own name as one and the same sign.
std::vector<uint64_t> WordHashes(std::string_view text, const std::string& own_name) {
  std::vector<uint64_t> hashes;
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    const char c = i < text.size() ? Lower(text[i]) : ' ';
    const bool digit = c >= '0' && c <= '9';
    if (digit || c == '_' || (c >= 'a' && c <= 'z') || static_cast<unsigned char>(c) >= 0x80) {
      if (!digit || !word.ends_with('0')) word += digit ? '0' : c;
    } else if (!word.empty()) {
      const size_t own = own_name.empty() ? std::string::npos : word.find(own_name);
      if (own != std::string::npos) word.replace(own, own_name.size(), 1, '\x01');
      hashes.push_back(XXH3_64bits(word.data(), word.size()));
      word.clear();
    }
  }
  return hashes;
}

// One-permutation hashing: the lowest shingle hash of each bin; empty bins borrow (optimal densification).
Signature MinHash(const RawDocument& document) {
  std::array<uint64_t, kBins> lowest;
  lowest.fill(kEmptyBin);
  const auto add = [&lowest](const void* bytes, size_t size) {
    const uint64_t hash = XXH3_64bits(bytes, size);
    uint64_t& bin = lowest[hash >> 57];
    bin = std::min(bin, hash & ((uint64_t{1} << 57) - 1));
  };
  const std::vector<uint64_t> words =
      WordHashes(WithoutLicenceComments(std::string_view(document.text).substr(0, kTextBytes)), Stem(document.name));
  if (words.empty()) {
    add(&document.hash, sizeof(document.hash));  // punctuation only: like nothing else
  } else {
    const size_t width = std::min(kShingleWords, words.size());
    for (size_t i = 0; i + width <= words.size(); ++i) add(&words[i], width * sizeof(uint64_t));
  }
  Signature signature;
  for (uint32_t bin = 0; bin < kBins; ++bin) {
    uint32_t source = bin;
    for (uint32_t attempt = 1; lowest[source] == kEmptyBin; ++attempt) {
      const uint32_t key[2] = {bin, attempt};
      source = static_cast<uint32_t>(XXH3_64bits(key, sizeof(key)) % kBins);
    }
    signature[bin] = static_cast<uint32_t>(lowest[source]);
  }
  return signature;
}

double EstimatedJaccard(const Signature& a, const Signature& b) {
  uint32_t equal = 0;
  for (size_t i = 0; i < kBins; ++i) equal += a[i] == b[i];
  return static_cast<double>(equal) / kBins;
}

class UnionFind {
 public:
  explicit UnionFind(size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), size_t{0}); }
  size_t Root(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void Join(size_t a, size_t b) { parent_[Root(a)] = Root(b); }

 private:
  std::vector<size_t> parent_;
};

// Documents whose signatures agree in one band, in runs of equal keys.
std::vector<std::pair<uint64_t, uint32_t>> SortedBand(const std::vector<Signature>& signatures, size_t band) {
  std::vector<std::pair<uint64_t, uint32_t>> keys(signatures.size());
  for (uint32_t i = 0; i < signatures.size(); ++i) {
    const uint32_t* rows = &signatures[i][band * kRowsPerBand];
    keys[i] = {(uint64_t{rows[0]} << 32) | rows[1], i};
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}
static_assert(kRowsPerBand == 2, "SortedBand packs two rows into one key");

}  // namespace

std::vector<uint64_t> ClusterNearDuplicates(std::span<const RawDocument> documents,
                                            const NearDuplicateOptions& options) {
  std::vector<Signature> signatures;
  signatures.reserve(documents.size());
  for (const RawDocument& document : documents) signatures.push_back(MinHash(document));

  UnionFind clusters(documents.size());
  for (size_t band = 0; band < kBands; ++band) {
    const auto keys = SortedBand(signatures, band);
    for (size_t begin = 0, end = 0; begin < keys.size(); begin = end) {
      while (end < keys.size() && keys[end].first == keys[begin].first) ++end;
      for (size_t i = begin; i < end; ++i) {
        for (size_t j = i + 1; j < end; ++j) {
          const uint32_t a = keys[i].second, b = keys[j].second;
          // Pairs that are joined already need no look: components do not depend on the order.
          if (clusters.Root(a) == clusters.Root(b)) continue;
          if (EstimatedJaccard(signatures[a], signatures[b]) >= options.min_jaccard) clusters.Join(a, b);
        }
      }
    }
  }

  std::vector<uint64_t> lowest(documents.size(), std::numeric_limits<uint64_t>::max());
  for (size_t i = 0; i < documents.size(); ++i) {
    uint64_t& low = lowest[clusters.Root(i)];
    low = std::min(low, documents[i].hash);
  }
  std::vector<uint64_t> result(documents.size());
  for (size_t i = 0; i < documents.size(); ++i) result[i] = lowest[clusters.Root(i)];
  return result;
}

std::vector<NearPair> NearDuplicatePairs(std::span<const RawDocument> first, std::span<const RawDocument> second,
                                         double min_jaccard) {
  std::vector<Signature> signatures;
  for (const RawDocument& document : first) signatures.push_back(MinHash(document));
  for (const RawDocument& document : second) signatures.push_back(MinHash(document));
  std::set<std::pair<uint32_t, uint32_t>> seen;
  std::vector<NearPair> pairs;
  for (size_t band = 0; band < kBands; ++band) {
    const auto keys = SortedBand(signatures, band);
    for (size_t begin = 0, end = 0; begin < keys.size(); begin = end) {
      while (end < keys.size() && keys[end].first == keys[begin].first) ++end;
      // A run's indices ascend: those of the first set, then those of the second.
      for (size_t i = begin; i < end && keys[i].second < first.size(); ++i) {
        for (size_t j = end; j-- > begin && keys[j].second >= first.size();) {
          const uint32_t a = keys[i].second, b = keys[j].second;
          if (!seen.emplace(a, b).second) continue;
          const double similarity = EstimatedJaccard(signatures[a], signatures[b]);
          if (similarity >= min_jaccard) pairs.push_back({a, b - first.size(), similarity});
        }
      }
    }
  }
  std::sort(pairs.begin(), pairs.end(), [](const NearPair& a, const NearPair& b) {
    return std::tuple(-a.similarity, a.first, a.second) < std::tuple(-b.similarity, b.first, b.second);
  });
  return pairs;
}

}  // namespace pointsman
