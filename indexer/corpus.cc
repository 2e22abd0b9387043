#include "indexer/corpus.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "indexer/near_duplicates.h"
#include "indexer/windows.h"

namespace pointsman {
namespace {

// A document's tokens, made when they are first asked for: a large corpus is not tokenised for a small budget.
class LazyTokens {
 public:
  LazyTokens(const Tokenizer& tokenizer, std::span<const RawDocument> documents)
      : tokenizer_(tokenizer), documents_(documents) {}
  const std::vector<int32_t>& Of(size_t index) {
    auto [it, fresh] = tokens_.try_emplace(index);
    if (fresh) it->second = tokenizer_.Encode(documents_[index].text);
    return it->second;
  }

 private:
  const Tokenizer& tokenizer_;
  std::span<const RawDocument> documents_;
  std::unordered_map<size_t, std::vector<int32_t>> tokens_;
};

std::vector<uint8_t> MaskOf(const Tokenizer& tokenizer, const RawDocument& raw, std::span<const int32_t> tokens) {
  if (raw.learn_spans.empty()) return {};
  std::vector<uint32_t> lengths;
  lengths.reserve(tokens.size());
  for (int32_t token : tokens) {
    lengths.push_back(static_cast<uint32_t>(tokenizer.Decode({&token, 1}, /*skip_special=*/false).size()));
  }
  return LossMask(lengths, raw.learn_spans);
}

Document MakeDocument(const Tokenizer& tokenizer, const RawDocument& raw, uint64_t cluster, SplitRole role,
                      std::span<const int32_t> tokens, std::span<const CorpusGroup> groups) {
  Document document;
  document.hash = raw.hash;
  document.source = raw.source;
  document.sha256 = raw.sha256;
  document.cluster = cluster;
  document.role = role;
  document.tokens.assign(tokens.begin(), tokens.end());
  document.loss_mask = MaskOf(tokenizer, raw, tokens);
  if (!groups.empty()) document.tags = {groups[raw.group].name};
  return document;
}

// Clusters of `documents` and `known` together; documents that share one with a known text are removed and counted.
std::vector<uint64_t> ClustersWithout(const Tokenizer& tokenizer, std::span<const Document> known,
                                      std::vector<RawDocument>& documents, uint64_t* removed) {
  const size_t count = documents.size();
  for (const Document& d : known) {
    RawDocument raw;
    raw.name = d.source.substr(0, d.source.find('#'));
    raw.text = tokenizer.Decode(d.tokens, /*skip_special=*/true);
    raw.hash = d.hash;
    documents.push_back(std::move(raw));
  }
  const std::vector<uint64_t> all = ClusterNearDuplicates(documents);
  const std::set<uint64_t> taken(all.begin() + static_cast<ptrdiff_t>(count), all.end());
  documents.resize(count);
  std::vector<uint64_t> clusters;
  std::vector<RawDocument> kept;
  for (size_t i = 0; i < count; ++i) {
    if (taken.contains(all[i])) continue;
    clusters.push_back(all[i]);
    kept.push_back(std::move(documents[i]));
  }
  *removed = count - kept.size();
  documents = std::move(kept);
  return clusters;
}

Result<Corpus> Prepare(const Tokenizer& tokenizer, const IngestOptions& ingest, const SplitOptions& split,
                       std::span<const Document> known = {}) {
  POINTSMAN_TRY(IngestResult ingested, Ingest(ingest));
  uint64_t known_left = 0;
  const std::vector<uint64_t> clusters = ClustersWithout(tokenizer, known, ingested.documents, &known_left);
  LazyTokens tokens(tokenizer, ingested.documents);
  POINTSMAN_TRY(const std::vector<SelectedDocument> selected,
                SelectDocuments(ingested.documents, clusters, split,
                                [&](size_t index) -> Result<uint64_t> { return tokens.Of(index).size(); }));
  Corpus corpus;
  corpus.report = std::move(ingested.report);
  corpus.known_left = known_left;
  for (const SelectedDocument& s : selected) {
    const std::span<const int32_t> all = tokens.Of(s.index);
    corpus.documents.push_back(MakeDocument(tokenizer, ingested.documents[s.index], clusters[s.index], s.role,
                                            all.first(s.tokens), ingest.groups));
  }
  std::sort(corpus.documents.begin(), corpus.documents.end(), [](const Document& a, const Document& b) {
    return std::pair(a.hash % kLogicalShards, a.hash) < std::pair(b.hash % kLogicalShards, b.hash);
  });
  std::vector<uint64_t> distinct = clusters;
  std::sort(distinct.begin(), distinct.end());
  corpus.clusters = std::unique(distinct.begin(), distinct.end()) - distinct.begin();
  return corpus;
}

}  // namespace

Result<Corpus> PrepareCorpus(const Tokenizer& tokenizer, const IngestOptions& ingest, const SplitOptions& split) {
  return Prepare(tokenizer, ingest, split);
}

Result<Corpus> PrepareTestCorpus(const Tokenizer& tokenizer, const IngestOptions& ingest, const SplitBudgets& budgets,
                                 uint64_t seed, std::span<const Document> known) {
  return Prepare(tokenizer, ingest, {.seed = seed, .fractions = {0, 0, 1}, .budgets = budgets}, known);
}

Result<Corpus> PrepareGeneralText(const Tokenizer& tokenizer, const IngestOptions& ingest, uint64_t max_tokens,
                                  uint32_t max_tokens_per_document, uint64_t seed) {
  SplitBudgets budgets;
  // A third each: the damage part must resolve the bound, the calibration part its quarter.
  budgets.reference_tokens = budgets.calibration_tokens = budgets.test_tokens = max_tokens / 3;
  budgets.max_tokens_per_document = max_tokens_per_document;
  return Prepare(tokenizer, ingest, {.seed = seed, .fractions = {0.3, 0.3, 0.4}, .budgets = budgets});
}

SequenceOptions SequenceOptionsOf(const MoeConfig& config) {
  const auto& eos = config.eos_token_ids;
  return {static_cast<uint32_t>(config.max_positions), static_cast<int32_t>(eos.empty() ? 0 : eos.front())};
}

std::vector<Sequence> MakeSequences(std::span<const Document> documents, SplitRole role,
                                    const SequenceOptions& options) {
  std::vector<uint32_t> lengths;
  std::map<uint64_t, uint32_t> groups;
  for (const Document& d : documents) {
    lengths.push_back(d.role == role ? static_cast<uint32_t>(d.tokens.size()) : 0);
    groups.try_emplace(d.cluster, static_cast<uint32_t>(groups.size()));
  }
  std::vector<Sequence> sequences;
  for (const Window& window : MakeWindows(lengths, {options.context, 0})) {
    const Document& d = documents[window.document];
    Sequence s;
    s.inputs = WindowInputs(window, d.tokens, options.end_of_text);
    const std::span<const int32_t> targets = WindowTargets(window, d.tokens);
    s.targets.assign(targets.begin(), targets.end());
    s.mask.assign(window.length, 1);
    for (uint32_t t = 0; t < window.length; ++t) {
      if (t < window.scored_from || (!d.loss_mask.empty() && !d.loss_mask[window.begin + t])) s.mask[t] = 0;
    }
    s.document = window.document;
    s.group = groups[d.cluster];
    s.position = window.begin;
    sequences.push_back(std::move(s));
  }
  NumberRows(sequences);
  return sequences;
}

uint64_t CountTokens(std::span<const Document> documents, SplitRole role) {
  uint64_t tokens = 0;
  for (const Document& d : documents) tokens += d.role == role ? d.tokens.size() : 0;
  return tokens;
}

uint64_t CountDocuments(std::span<const Document> documents, SplitRole role) {
  return std::count_if(documents.begin(), documents.end(), [&](const Document& d) { return d.role == role; });
}

}  // namespace pointsman
