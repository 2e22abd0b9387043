// The report of `pointsman eval` (and `probe`, `plan`): JSON for machines (schemas/eval.schema.json), a table for the
// terminal, one self-contained HTML page. Values only; nothing here computes a statistic.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "indexer/evaluation/breakdown.h"
#include "indexer/evaluation/generation_score.h"
#include "indexer/evaluation/leakage_report.h"
#include "indexer/evaluation/passage.h"
#include "indexer/evaluation/statistics.h"
#include "indexer/tasks/task_score.h"

namespace pointsman {

enum class Decision : uint8_t { kAdopt, kReject, kInconclusive };
const char* DecisionText(Decision decision);  // "adopt", "reject", "inconclusive"

// The window of text (at least 32 scored tokens) that a variant made worst, in nats per token against its baseline.
struct WorstSequence {
  double change = 0;
  uint64_t tokens = 0;  // scored in it
};

// One variant on the test split (gain) and on unrelated text (damage). All in nats per token, differences to `frozen`;
// gain < 0 is better. An absent figure is null in JSON and "-" in the table.
struct VariantScore {
  std::string name;
  double nll = 0;                     // on the test split
  double gain = 0;                    // nll minus frozen's
  std::optional<Interval> ci95;       // of the gain; absent for frozen
  std::optional<Interval> vs_memory;  // of nll minus memory's; absent for memory, and without one
  std::optional<double> p;            // of the gain, Holm-adjusted over the variants of the report
  std::optional<double> share;        // gain / full_finetune's gain
  std::optional<double> damage;       // nll minus frozen's on unrelated text
  std::optional<Interval> damage_ci95;
  std::optional<WorstSequence> worst, worst_unrelated;  // on the test split; on unrelated text
  std::optional<double> untouched_tokens;               // 0..1 of the unrelated text: no layer's row was written
  std::optional<double> identical_documents;            // 0..1 of the unrelated text: bit-identical logits throughout
  std::optional<double> build_s;
  std::optional<double> seconds_per_token;
  uint32_t seeds = 1;                     // trainings that nll, gain and damage are means of
  std::optional<double> seed_sd;          // of nll between them; absent with one
  std::optional<double> bytes_per_token;  // stored bytes / reference tokens, all layers
};

// What kind of rival a variant is, from its name.
enum class VariantKind : uint8_t { kReferencePoint, kControl, kRival, kMemory };
VariantKind KindOf(const std::string& variant_name);

struct ReportFact {
  std::string name, value;
};

struct EvalReport {
  Decision verdict = Decision::kInconclusive;
  std::string reason;        // Verdict::reason
  bool stale = false;        // the memory was written after it was scored
  std::string dominated_by;  // empty = none; null in JSON
  uint64_t documents = 0;    // scored test documents
  uint64_t tokens = 0;       // scored test tokens
  uint64_t unrelated_documents = 0;
  uint64_t unrelated_tokens = 0;
  uint64_t reference_documents = 0;  // what the memory and the trained variants were made from
  uint64_t reference_tokens = 0;
  uint64_t test_looks = 0;  // how often this test split has been scored, this time included
  double min_gain = 0.01;   // the rule's two thresholds, shown beside the figures
  double damage_bound = 0.002;
  std::vector<VariantScore> variants;
  std::optional<LeakageReport> leakage;     // absent: not looked for (a memory without text)
  std::vector<GenerationScore> generation;  // empty unless asked for
  std::vector<TaskReport> tasks;            // one a metric; empty without --task
  std::vector<std::string> notes;           // leakage checks, controls, limits: one sentence each
  std::optional<Breakdown> breakdown;       // where the memory helps; absent if none was scored
  // For the page alone.
  std::vector<Passage> passages;  // examples; empty: passages_absent says why
  std::string passages_absent;
  std::vector<ReportFact> provenance;  // model, memory, texts, counts
  std::vector<ReportFact> settings;    // of the run
};

nlohmann::json ToJson(const EvalReport& report);  // schemas/eval.schema.json: design.md 10's members, and optional ones
// Aligned columns with units, an explanatory line per group of columns, the verdict in words. Ends with a newline.
std::string ToTable(const EvalReport& report, bool color);
// One page without external resources and script, for a person who decides: report_sections.h lists what is in it.
// `title` is shown. Texts and names from documents are escaped, long ones cut: a page stays below 1 MB.
std::string ToHtml(const EvalReport& report, const std::string& title);

struct LayerHeadroom {
  int64_t layer = 0;
  double headroom = 0;  // nats per token that ideal routing of this layer alone would gain (>= 0 is room)
  Interval ci95;
};

// What the probe advises.
//   in vain  the experts are all equal, or even ideal routing would gain less than min_gain (upper 95 % bound)
//   build    there is room, and a router trained on one half of the sample gains on the other (lower bound above 0)
//   unsure   there is room, but so little text teaches nothing that carries over
enum class Advice : uint8_t { kBuild, kUnsure, kInVain };
const char* AdviceText(Advice advice);  // "build", "unsure", "in_vain"

struct ProbeReport {
  uint64_t tokens = 0;
  uint64_t documents = 0;  // independent ones: near-duplicates count once
  double headroom = 0;     // all layers together
  Interval ci95;
  std::vector<LayerHeadroom> layers;
  double transfer = 0;  // gain on one half of the sample of a router trained on the other, both ways; > 0 is a gain
  Interval transfer_ci95;
  bool equal_experts = false;  // in every layer: no choice among them can matter
  double min_gain = 0.01;
  Advice advice = Advice::kUnsure;
};
nlohmann::json ToJson(const ProbeReport& report);  // schemas/probe.schema.json
std::string ToTable(const ProbeReport& report);

struct PlanReport {
  uint64_t tokens = 0;
  uint64_t ram_bytes = 0;
  double seconds = 0;
  uint64_t truth_bytes = 0;
  uint64_t derived_bytes = 0;
};
nlohmann::json ToJson(const PlanReport& report);  // schemas/plan.schema.json
std::string ToTable(const PlanReport& report);

}  // namespace pointsman
