#include "indexer/evaluation/leakage.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "indexer/near_duplicates.h"

namespace pointsman {
namespace {

uint64_t RunHash(std::span<const int32_t> tokens, size_t begin) {
  return XXH3_64bits(tokens.data() + begin, kRepeatedRun * sizeof(int32_t));
}

std::unordered_set<uint64_t> RunsOf(std::span<const Document> documents) {
  std::unordered_set<uint64_t> runs;
  for (const Document& d : documents) {
    for (size_t i = 0; i + kRepeatedRun <= d.tokens.size(); ++i) runs.insert(RunHash(d.tokens, i));
  }
  return runs;
}

std::vector<uint8_t> MaskOf(const Document& document, const std::unordered_set<uint64_t>& runs) {
  std::vector<uint8_t> mask(document.tokens.size(), 0);
  for (size_t i = 0; i + kRepeatedRun <= mask.size(); ++i) {
    if (runs.contains(RunHash(document.tokens, i))) std::fill_n(mask.begin() + i, kRepeatedRun, uint8_t{1});
  }
  return mask;
}

std::vector<RawDocument> TextsOf(const Tokenizer& tokenizer, std::span<const Document> documents) {
  std::vector<RawDocument> texts;
  for (const Document& d : documents) {
    if (d.tokens.empty()) continue;
    RawDocument raw;
    raw.source = d.source;
    raw.name = d.source.substr(0, d.source.find('#'));
    raw.text = tokenizer.Decode(d.tokens, /*skip_special=*/true);
    raw.hash = d.hash;
    texts.push_back(std::move(raw));
  }
  return texts;
}

void CountRepeated(std::span<const Document> documents, std::span<const Document> reference, TextOverlap& overlap) {
  for (const std::vector<uint8_t>& mask : RepeatedTokens(documents, reference)) {
    uint64_t run = 0, longest = 0;
    for (const uint8_t repeated : mask) {
      run = repeated ? run + 1 : 0;
      longest = std::max(longest, run);
      overlap.repeated_tokens += repeated;
    }
    overlap.tokens += mask.size();
    overlap.repeated_documents += longest > 0;
    overlap.longest_run = std::max(overlap.longest_run, longest);
  }
}

std::string PairText(const SimilarPair& pair) {
  return fmt::format("{} and {} ({:.2f})", pair.document, pair.reference, pair.similarity);
}

void Describe(const TextOverlap& overlap, const std::string& what, const std::string& meaning,
              std::vector<std::string>& notes) {
  if (overlap.near_duplicates > 0) {
    notes.push_back(
        fmt::format("leakage: {} near-duplicate pairs between {} and the text that is learned from ({}), most alike {}",
                    overlap.near_duplicates, what, meaning, PairText(overlap.worst.front())));
  }
  if (overlap.repeated_tokens > 0) {
    notes.push_back(
        fmt::format("leakage: {:.1f}% of the tokens of {} ({} of {} documents) lie in runs of {} or more tokens that "
                    "stand word for word in the text that is learned from ({}); the longest run has {}",
                    100.0 * static_cast<double>(overlap.repeated_tokens) / static_cast<double>(overlap.tokens), what,
                    overlap.repeated_documents, overlap.documents, kRepeatedRun, meaning, overlap.longest_run));
  }
}

}  // namespace

std::vector<std::vector<uint8_t>> RepeatedTokens(std::span<const Document> documents,
                                                 std::span<const Document> reference) {
  const std::unordered_set<uint64_t> runs = RunsOf(reference);
  std::vector<std::vector<uint8_t>> masks;
  for (const Document& d : documents) masks.push_back(MaskOf(d, runs));
  return masks;
}

TextOverlap FindOverlap(const Tokenizer& tokenizer, std::span<const Document> documents,
                        std::span<const Document> reference) {
  const std::vector<RawDocument> mine = TextsOf(tokenizer, documents), theirs = TextsOf(tokenizer, reference);
  TextOverlap overlap;
  overlap.documents = mine.size();
  overlap.reference_documents = theirs.size();
  for (const NearPair& pair : NearDuplicatePairs(mine, theirs, kNotableSimilarity)) {
    overlap.near_duplicates += pair.similarity >= kNearDuplicate;
    if (overlap.worst.size() < kWorstPairs) {
      overlap.worst.push_back({mine[pair.first].source, theirs[pair.second].source, pair.similarity});
    }
  }
  CountRepeated(documents, reference, overlap);
  return overlap;
}

std::vector<std::string> LeakageNotes(const LeakageReport& report) {
  std::vector<std::string> notes;
  Describe(report.test, "your test text", "a memory recognizes copies", notes);
  if (report.gain_without_repeated) {
    const Estimate& gain = *report.gain_without_repeated;
    notes.push_back(
        fmt::format("without the repeated tokens the memory's gain is {:+.4f} ({:+.4f} to {:+.4f}) nats per "
                    "token",
                    gain.mean, gain.ci95.low, gain.ci95.high));
  }
  Describe(report.unrelated, "the unrelated text", "it is not unrelated, and damage there is measured too low", notes);
  return notes;
}

}  // namespace pointsman
