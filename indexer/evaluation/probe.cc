// Probe(): how much routing could gain at all on this text, before anything is built (the oracle of design.md 8), and
// whether what one half of a sample teaches a router helps on the other half.
#include <algorithm>
#include <utility>

#include "adapt/linear_part.h"
#include "adapt/token_values.h"
#include "adapt/trainer.h"
#include "indexer/builder.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/job.h"

namespace pointsman {
namespace {

constexpr uint32_t kWindow = 128;        // tokens of a document: many documents, a piece of each
constexpr uint32_t kReadTokens = 4'096;  // of a document's first tokens; the piece lies anywhere in them
constexpr uint64_t kShortDocument = 32;  // tokens; so many documents are read that pieces this short would suffice
// The router that is trained on half of the sample: rates as the baselines', steps small and many, as the text is
// short.
constexpr double kBiasRate = 0.02, kRouterRate = 3e-3;
constexpr int kEpochs = 8;

// Gain of `after` over `before`, by document; positive = room.
Estimate RoomOf(const ScoredText& text, std::span<const SequenceScore> before, std::span<const SequenceScore> after,
                uint64_t seed) {
  const Result<std::vector<ClusterDifference>> differences =
      PairedDifferences(SumByDocument(text, before), SumByDocument(text, after));
  StatisticsOptions statistics;
  statistics.seed = seed;
  return differences.ok() ? EstimateDifference(differences.value(), statistics) : Estimate{};
}

Sequence Piece(const Sequence& window, uint32_t begin) {
  const uint32_t end = std::min(begin + kWindow, static_cast<uint32_t>(window.inputs.size()));
  Sequence piece = window;
  piece.inputs = {window.inputs.begin() + begin, window.inputs.begin() + end};
  piece.targets = {window.targets.begin() + begin, window.targets.begin() + end};
  piece.mask = {window.mask.begin() + begin, window.mask.begin() + end};
  piece.position += begin;
  return piece;
}

// One piece a document, anywhere in it: the start of a file (a licence, a header) is not what the file is like.
ScoredText SampleOf(const MoeModel& model, std::vector<Document> documents, const ProbeOptions& options) {
  ScoredText text = MakeScoredText(model, std::move(documents), SplitRole::kTest);
  std::vector<Sequence> chosen;
  uint64_t tokens = 0;
  for (size_t begin = 0, end = 0; begin < text.sequences.size() && tokens < options.sample_tokens; begin = end) {
    const uint32_t document = text.sequences[begin].document;
    uint64_t pieces = 0;
    std::vector<std::pair<size_t, uint32_t>> starts;
    for (; end < text.sequences.size() && text.sequences[end].document == document; ++end) {
      const auto length = static_cast<uint32_t>(text.sequences[end].inputs.size());
      for (uint32_t at = 0; at < length; at += kWindow) {
        if (starts.empty() || length - at >= kWindow / 4) starts.emplace_back(end, at);
      }
    }
    pieces = starts.size();
    const auto [sequence, at] =
        starts[(text.documents[document].hash ^ (options.data.seed * 0x9E3779B97F4A7C15ull)) % pieces];
    chosen.push_back(Piece(text.sequences[sequence], at));
    tokens += std::count(chosen.back().mask.begin(), chosen.back().mask.end(), uint8_t{1});
  }
  text.sequences = std::move(chosen);
  NumberRows(text.sequences);
  return text;
}

// Losses of every sequence under a router trained on the other half of the sample; a quarter of that half stops it.
std::vector<SequenceScore> CrossTrained(const MoeModel& model, const ScoredText& text, const ProbeOptions& options) {
  std::vector<SequenceScore> scores(text.sequences.size());
  for (size_t fold = 0; fold < 2; ++fold) {
    std::vector<Sequence> train, stop, scored;
    std::vector<size_t> where;
    for (size_t i = 0; i < text.sequences.size(); ++i) {
      if (i % 2 == fold) {
        scored.push_back(text.sequences[i]);
        where.push_back(i);
      } else {
        (i / 2 % 4 == 3 ? stop : train).push_back(text.sequences[i]);
      }
    }
    LinearPartOptions rates;
    rates.bias_rate = kBiasRate;
    rates.router_delta_rate = kRouterRate;
    LinearPart router(model.config(), rates);
    TrainOptions training;
    training.epochs = kEpochs;
    training.batch_sequences = kShardSequences;
    training.seed = options.data.seed;
    training.threads = options.data.threads;
    if (!train.empty() && !stop.empty()) Train(model, router, train, stop, training);
    const HookFactory hooks = [&](const Batch& batch, std::vector<uint32_t>*) {
      return std::make_unique<ModuleHook>(router, batch, /*training=*/false);
    };
    auto found = ScoreSequences(model, scored, hooks, {.threads = options.data.threads});
    for (size_t i = 0; i < where.size(); ++i) scores[where[i]] = std::move(found[i]);
  }
  return scores;
}

Advice AdviceOf(const ProbeReport& report, const Estimate& room, const Estimate& transfer) {
  if (report.equal_experts || room.ci95.high < report.min_gain) return Advice::kInVain;
  return transfer.ci95.low > 0 ? Advice::kBuild : Advice::kUnsure;
}

}  // namespace

Result<ProbeReport> Probe(const ProbeOptions& options) {
  if (options.data.corpus.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--corpus: name at least one file or folder"};
  }
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModel(options.data));
  SplitBudgets budgets;
  budgets.test_documents = std::max<uint64_t>(1, options.sample_tokens / kShortDocument);
  budgets.max_tokens_per_document = kReadTokens;
  budgets.max_documents_per_cluster = 1;  // copies must not stand on both sides of a fold
  POINTSMAN_TRY(Corpus corpus, PrepareTestCorpus(model->tokenizer(), IngestOf(options.data, options.data.corpus),
                                                 budgets, options.data.seed));
  Say(options.data, "corpus: " + corpus.report.Summary());
  const ScoredText text = SampleOf(*model, std::move(corpus.documents), options);
  const uint64_t tokens = CountTargets(text.sequences), seed = options.data.seed;
  Progress progress("probe", tokens * (1 + model->config().num_layers), "tokens", ProgressOf(options.data));
  TokenValueOptions oracle;
  oracle.keep_values = false;
  oracle.threads = options.data.threads;
  oracle.on_progress = [&](uint64_t n) { progress.Advance(n); };
  const TokenValues best = OptimizeTokenValues(*model, text.sequences, oracle);
  const Estimate room = RoomOf(text, best.before, best.after, seed);
  ProbeReport report;
  report.tokens = tokens;
  report.documents = room.clusters;
  report.headroom = room.mean;
  report.ci95 = room.ci95;
  report.min_gain = options.min_gain;
  report.equal_experts = model->ExpertsAreEqual();
  for (int layer = 0; layer < model->config().num_layers; ++layer) {
    oracle.layer = layer;
    const TokenValues alone = OptimizeTokenValues(*model, text.sequences, oracle);
    const Estimate one = RoomOf(text, alone.before, alone.after, seed);
    report.layers.push_back({layer, one.mean, one.ci95});
  }
  const Estimate transfer = RoomOf(text, best.before, CrossTrained(*model, text, options), seed);
  report.transfer = transfer.mean;
  report.transfer_ci95 = transfer.ci95;
  report.advice = AdviceOf(report, room, transfer);
  progress.Finish();
  return report;
}

}  // namespace pointsman
