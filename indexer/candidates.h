// The kinds of memory that a build can choose from, each made from the same reference set and delivered as the same
// thing: tables without a gate. The gate is calibrated afterwards and is common to all.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adapt/entry_values.h"
#include "adapt/prototypes.h"
#include "adapt/trainer.h"
#include "indexer/reference_set.h"
#include "memory/manifest.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"
#include "models/model.h"

namespace pointsman {

struct Candidate {
  std::string name;      // "prototypes", "entries", "knn"
  OwnedTables tables;    // gate disabled
  double build_s = 0;    // training alone; capture is shared
  TrainReport training;  // empty for knn
};

inline constexpr uint32_t kStepSequences = 4;

struct CandidateOptions {
  int epochs = 6;
  int patience = TrainOptions{}.patience;
  uint64_t seed = 0;
  int threads = 1;
  ValueKind value_kind = ValueKind::kDelta;  // knn only; the trained kinds are kDelta
  // Of the trained kinds (docs/decisions/005-training.md):
  double noise = 1;
  uint32_t batch_sequences = kStepSequences;
  const StillRows* still = nullptr;  // unrelated text that they learn to leave alone; borrowed
  std::function<void(uint64_t tokens)> on_progress;
  std::function<void(const std::string& name, const EpochReport&)> on_epoch;
};

// Ours: prototypes (findings F2) and entries (F1), trained through the model's loss.
Result<Candidate> TrainPrototypes(const LossModel& model, const ReferenceSet& set, PrototypeOptions prototypes,
                                  const CandidateOptions& options);
Result<Candidate> TrainEntries(const LossModel& model, const ReferenceSet& set, EntryOptions entries,
                               const CandidateOptions& options);
// Our reading of the paper's build (kNN-MoE): raw hidden states normalised, k 8, w = exp((cos - 1) / .5) / k, values by
// 5 joint Adam steps on each token's own logits.
Result<Candidate> BuildKnn(const MoeModel& model, const ReferenceSet& set, const CandidateOptions& options);

// Rows of unrelated text for CandidateOptions::still: at most kStillTokens of them, from sequences all over the text.
StillRows MakeStillRows(const LossModel& model, std::span<const Sequence> unrelated, int threads);
inline constexpr uint64_t kStillTokens = 16'384;
inline constexpr double kStillWeight = 1;

// How much a preset trains ("default", "fast") on a reference set of `sequences`: shared by the build and by whoever
// trains its kinds again. It is steps that a small set wants, not epochs (docs/decisions/005-training.md).
struct TrainingSize {
  int epochs = 6;
  uint32_t max_prototypes = 2048;
};
TrainingSize TrainingSizeOf(const std::string& preset, size_t sequences);
// The preset that a memory was built with; "default" of one that does not say.
std::string PresetOf(const Manifest& manifest);
inline constexpr size_t kTrainingSteps = 300;  // as far as the epochs allow
inline constexpr int kLeastEpochs = 6, kMostEpochs = 24;

// The number of prototypes for a reference set of this size, a power of two of 256..2,048: about one for 8 tokens up to
// 1,024, beyond that one for 24 (docs/decisions/005-training.md).
uint32_t PrototypeCount(uint64_t tokens);

// Bytes of the derived index that these tables take, all layers, gate and output memory included.
uint64_t TableBytes(const RoutingTables& tables);

}  // namespace pointsman
