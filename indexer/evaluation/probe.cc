// Probe(): how much routing could gain at all on this text, before anything is built (the oracle of design.md 8).
#include <utility>

#include "adapt/token_values.h"
#include "indexer/builder.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/job.h"

namespace pointsman {
namespace {

// Gain of the optimised logits over the frozen ones, per document; positive = room.
Estimate HeadroomOf(const ScoredText& text, const TokenValues& values, uint64_t seed) {
  const auto before = SumByDocument(text, values.before), after = SumByDocument(text, values.after);
  const Result<std::vector<ClusterDifference>> differences = PairedDifferences(before, after);
  StatisticsOptions statistics;
  statistics.seed = seed;
  return differences.ok() ? EstimateDifference(differences.value(), statistics) : Estimate{};
}

}  // namespace

Result<ProbeReport> Probe(const ProbeOptions& options) {
  if (options.data.corpus.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--corpus: name at least one file or folder"};
  }
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModel(options.data));
  SplitBudgets budgets;
  budgets.test_tokens = options.sample_tokens;
  budgets.max_tokens_per_document =
      static_cast<uint32_t>(model->config().max_positions);  // many documents, little of each
  POINTSMAN_TRY(Corpus corpus, PrepareTestCorpus(model->tokenizer(), IngestOf(options.data, options.data.corpus),
                                                 budgets, options.data.seed));
  Say(options.data, "corpus: " + corpus.report.Summary());
  const ScoredText text = MakeScoredText(*model, std::move(corpus.documents), SplitRole::kTest);
  const uint64_t tokens = CountTargets(text.sequences);
  Progress progress("probe", tokens * (1 + model->config().num_layers), "tokens", {.quiet = options.data.quiet});
  TokenValueOptions oracle;
  oracle.keep_values = false;
  oracle.threads = options.data.threads;
  oracle.on_progress = [&](uint64_t n) { progress.Advance(n); };
  const Estimate all = HeadroomOf(text, OptimizeTokenValues(*model, text.sequences, oracle), options.data.seed);
  ProbeReport report;
  report.tokens = tokens;
  report.headroom = all.mean;
  report.ci95 = all.ci95;
  for (int layer = 0; layer < model->config().num_layers; ++layer) {
    oracle.layer = layer;
    const Estimate one = HeadroomOf(text, OptimizeTokenValues(*model, text.sequences, oracle), options.data.seed);
    report.layers.push_back({layer, one.mean});
  }
  progress.Finish();
  return report;
}

}  // namespace pointsman
