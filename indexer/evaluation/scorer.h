// Scores one variant on the test split and on unrelated text: per-document losses, paired by construction because every
// variant reads the same batches.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "adapt/objective.h"
#include "adapt/sequences.h"
#include "indexer/evaluation/scoring.h"
#include "memory/document.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/loss_model.h"

namespace pointsman {

// Documents of one role with their sequences (Sequence::document indexes `documents`).
struct ScoredText {
  std::vector<Document> documents;
  std::vector<Sequence> sequences;
  std::vector<std::vector<uint8_t>> repeated = {};  // [document][token], 1 = stands in the reference text (leakage.h)
};
ScoredText MakeScoredText(const LossModel& model, std::vector<Document> documents, SplitRole role);

// The first error of any hook of a scoring run; hooks report here because they cannot return.
class HookErrors {
 public:
  void Report(const Status& status);
  Status first() const;

 private:
  mutable std::mutex mutex_;
  Status first_;
};

// Routes with `tables` through router/: a Router and a slot per sequence for every batch.
HookFactory TableHooks(std::shared_ptr<const RoutingTables> tables, std::shared_ptr<HookErrors> errors,
                       float strength = 1.0f);

// Per-document sums, in the documents' order; documents without a sequence are absent.
std::vector<DocumentNll> SumByDocument(const ScoredText& text, std::span<const SequenceScore> scores);
// The same without the repeated tokens; empty when the text was not checked for them.
std::vector<DocumentNll> SumWithoutRepeated(const ScoredText& text, std::span<const SequenceScore> scores);
std::vector<SequenceNll> SumBySequence(std::span<const Sequence> sequences, std::span<const SequenceScore> scores);
TouchCounts CountTouches(const ScoredText& text, std::span<const SequenceScore> scores);

// Losses token by token, in the texts' order: for what sums per document cannot say (where a memory helps, passages).
struct TokenScores {
  std::vector<SequenceScore> test;
  std::vector<SequenceScore> unrelated;
};

struct ScorerOptions {
  int threads = 1;
  TokenScores* keep = nullptr;  // filled if given
  std::function<void(uint64_t tokens)> on_progress;
};

// One variant's run. `hooks` empty: the model as it is. seconds_per_token is wall time on the test split.
Result<VariantRun> ScoreVariant(const std::string& name, const LossModel& model, const HookFactory& hooks,
                                const std::shared_ptr<HookErrors>& errors, const ScoredText& test,
                                const ScoredText& unrelated, const ScorerOptions& options);

}  // namespace pointsman
