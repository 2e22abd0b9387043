// Plan(): what a build would cost, from a short measurement on this machine and the sizes of what it keeps.
#include <algorithm>
#include <chrono>
#include <vector>

#include "adapt/objective.h"
#include "indexer/builder.h"
#include "indexer/candidates.h"
#include "indexer/job.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

constexpr uint64_t kKeyDim = 64;
// A training token costs a forward and a backward through the activations, about three forwards; each kind evaluates
// calibration text after every epoch and, under the gate, unrelated text a few times.
constexpr double kForwardsPerTrainedToken = 3;
constexpr double kScoringPasses = 4;

// Tokens per second of the frozen forward with all threads.
double ForwardRate(const MoeModel& model, int threads) {
  const uint32_t length = static_cast<uint32_t>(model.config().max_positions);
  Sequence sequence;
  for (uint32_t t = 0; t < length; ++t) {
    sequence.inputs.push_back(static_cast<int32_t>((t * 7919u) % model.config().vocab_size));
    sequence.targets.push_back(sequence.inputs.back());
    sequence.mask.push_back(1);
  }
  const std::vector<Sequence> sequences(16 * std::max(1, threads), sequence);
  ScoreSequences(model, std::span(sequences).first(8), {}, {.threads = threads});  // warm
  const auto start = std::chrono::steady_clock::now();
  ScoreSequences(model, sequences, {}, {.threads = threads});
  const double seconds = SecondsSince(start);
  return static_cast<double>(sequences.size() * length) / seconds;
}

}  // namespace

Result<PlanReport> Plan(const PlanOptions& options) {
  const CorpusOptions& data = options.build.data;
  POINTSMAN_CHECK_OK(CheckCorpus(data));
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModel(data));
  POINTSMAN_TRY(const Corpus corpus, LoadCorpus(*model, data));
  const MoeConfig& config = model->config();
  const uint64_t tokens = CountTokens(corpus.documents, SplitRole::kReference);
  const uint64_t layers = config.num_layers, experts = config.num_experts, hidden = config.hidden_size;
  const bool entries = options.build.kind != "prototypes", prototypes = options.build.kind != "entries";
  const bool knn = options.build.preset == "knn";  // one pass, one kind
  const double kinds = knn ? 1 : entries + prototypes;
  const double rate = ForwardRate(*model, data.threads);
  const auto reference = MakeSequences(corpus.documents, SplitRole::kReference, SequenceOptionsOf(config));
  const double epochs = knn ? 1 : TrainingSizeOf(options.build.preset, reference.size()).epochs;

  PlanReport report;
  report.tokens = tokens;
  // Captured hidden states and keys in fp32, neighbours (k 32: similarity and row), values with Adam's two moments.
  uint64_t weights = 0;
  for (const auto& [name, value] : model->Weights()) weights += value.numel() * sizeof(float);
  report.ram_bytes = 2 * weights + tokens * layers * (hidden + kKeyDim) * sizeof(float) +
                     (entries ? tokens * layers * (32 * 12 + 6 * experts * sizeof(float)) : 0) + (uint64_t{1} << 30);
  const double trained = static_cast<double>(tokens) * epochs * kForwardsPerTrainedToken * kinds;
  const double scored = kScoringPasses * static_cast<double>(data.max_test_tokens + data.max_off_domain_tokens) +
                        epochs * kinds * static_cast<double>(CountTokens(corpus.documents, SplitRole::kCalibration));
  report.seconds = (trained + scored + static_cast<double>(tokens)) / rate;
  const uint64_t entry_bytes = kKeyDim + 4 + experts + 4 + 8;
  report.derived_bytes = prototypes ? layers * (PrototypeCount(tokens) * (entry_bytes + 8 * kPrototypeReferences) +
                                                config.vocab_size * (experts + 4) + experts * hidden * 4)
                                    : tokens * layers * entry_bytes;
  constexpr uint64_t kOutputBytes = kKeyDim + 4 + 4 + 8;  // key, scale, next token, reference
  if (options.build.output_memory) {
    report.derived_bytes += tokens * kOutputBytes;
    report.seconds += kinds * static_cast<double>(tokens) / rate;
  }
  report.truth_bytes = tokens * 5 + (entries ? tokens * layers * (entry_bytes + 24) : 0) + report.derived_bytes;
  return report;
}

}  // namespace pointsman
