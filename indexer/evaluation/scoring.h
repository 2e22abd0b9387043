// From per-document sums of every variant to the report: the one place where scores, intervals, p-values, verdict,
// domination and controls are put together. Needs no model: evaluation/variants fills VariantRun.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "indexer/evaluation/report.h"
#include "indexer/evaluation/statistics.h"
#include "indexer/evaluation/verdict.h"
#include "memory/manifest.h"
#include "memory/result.h"

namespace pointsman {

// What a variant did on the unrelated text, beside its loss.
struct TouchCounts {
  uint64_t tokens = 0;
  uint64_t untouched_tokens = 0;  // no adapted layer's row was written
  uint64_t documents = 0;
  uint64_t identical_documents = 0;  // every logit bit-identical to the frozen model's
};

// A variant trained once more with another seed, scored on the same text.
struct OtherTraining {
  std::vector<DocumentNll> test, unrelated;
};

// One scored window.
struct SequenceNll {
  double nll_sum = 0;
  uint64_t tokens = 0;
};

struct VariantRun {
  std::string name;  // "frozen", "memory", "knn", ... (design.md 8)
  // The run that this one's gain is measured from. One scored on other tokens (rewiring: second halves, oracle: a
  // sample) names a frozen run on those same tokens, and is not compared with `memory`.
  std::string baseline = "frozen";
  std::vector<DocumentNll> test;             // scored documents of the test split
  std::vector<DocumentNll> unrelated;        // scored documents of unrelated text; empty = not measured
  std::vector<DocumentNll> test_fresh = {};  // `test` without repeated tokens (leakage.h); empty = not looked for
  // The scored windows of both, in the baseline's order; may be empty.
  std::vector<SequenceNll> test_sequences = {}, unrelated_sequences = {};
  // Scores are means over these and the first training; their spread widens the intervals.
  std::vector<OtherTraining> other_seeds = {};
  // The run whose seeds tell how another build of this one would differ (`memory`: its kind); empty = none.
  std::string recipe = {};
  std::optional<TouchCounts> touched;
  std::optional<double> build_s;
  std::optional<double> seconds_per_token;
  std::optional<double> bytes_per_token;
  std::vector<std::vector<uint8_t>> task_marks = {};  // [metric][item] (tasks/task_runner.h); empty: not asked
};

struct ScoringOptions {
  StatisticsOptions statistics;
  VerdictOptions verdict;
};

// Scores `runs` in their order. kInvalidArgument: no run named "frozen", a baseline that is not there, or a run that
// does not hold its baseline's documents. Without a run named "memory" (probe, plan) the verdict is inconclusive and
// says so. Fills everything of the report but stale, reference_* and test_looks; broken controls become notes.
Result<EvalReport> MakeReport(std::span<const VariantRun> runs, const ScoringOptions& options);

// The part of the report that the manifest keeps.
VerdictSummary Summarize(const EvalReport& report);

}  // namespace pointsman
