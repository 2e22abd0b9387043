// The door of the indexer: corpus -> memory -> verdict (design.md 8). The functions below are what the commands call.
//
// All of them print progress to stderr unless `quiet`, use up to `threads` threads, and
// give the same result for any number of them. One at a time per process (they set LibTorch's own threads to 1).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapt/host_options.h"
#include "adapt/rerouting_options.h"
#include "indexer/corpus_group.h"
#include "indexer/evaluation/report.h"
#include "indexer/ingest.h"
#include "indexer/progress.h"
#include "indexer/tasks/task_options.h"
#include "memory/manifest.h"
#include "memory/memory.h"
#include "memory/result.h"

namespace pointsman {

// What every job reads: a model, a corpus and how the corpus is cut. Flags of the same name (with dashes).
struct CorpusOptions {
  std::filesystem::path model;
  std::vector<std::string> corpus;
  std::vector<CorpusGroup> groups;  // in place of `corpus`: the context gate opens for each on its own evidence
  std::vector<std::string> jsonl_fields;
  std::vector<std::string> off_domain;  // unrelated text; empty: kinds found on this machine (general_text.h)
  uint64_t seed = 0;
  uint64_t max_tokens = 100'000;  // of reference text
  uint64_t max_test_tokens = 60'000;
  uint64_t max_off_domain_tokens = 150'000;  // a third each: to learn from, to calibrate, to measure
  uint32_t max_tokens_per_document = 1'024;
  bool split_by_library = false;  // train on some libraries (top folders), test on others
  int threads = 2;
  bool quiet = false;
  ProgressStyle progress = ProgressStyle::kAuto;
};

struct BuildOptions {
  CorpusOptions data;
  std::filesystem::path out;
  std::string kind = "auto";       // auto | entries | prototypes
  std::string preset = "default";  // default | fast | knn
  std::string blend = "delta";     // delta | logits | assignments (the last two: preset knn)
  std::string layers = "auto";     // auto | all | "0,3,.."
  bool resume = false;             // go on with an interrupted build of the same settings
  bool output_memory = false;      // next tokens vote on the output, too (indexer/output_memory.h)
  bool no_text = false;            // keep no token ids: no excerpts, no rebuild, no trained variants in eval
  double min_gain = 0.01;
  double damage_bound = 0.002;
  std::optional<HostOptions> host = {};  // transformers computes the model (--capture); none: our own runtime
};

struct StageTime {
  std::string stage;
  double seconds = 0;
};

struct BuildReport {
  Manifest manifest;
  MemoryStats stats;
  IngestReport ingest;
  std::vector<StageTime> stages;
  std::vector<std::string> notes;  // one sentence each, for the person at the terminal
};

// Builds, publishes and scores a memory. Errors: kInvalidArgument (options), kNotFound (model, empty corpus), kBusy,
// kNoSpace, kIo, kMismatch (--resume with other settings). An existing memory at `out` is replaced by a new generation
// only when everything before publication succeeded.
Result<BuildReport> BuildMemory(const BuildOptions& options);

struct EvalOptions {
  CorpusOptions data;                    // data.corpus may be empty with a memory and a test corpus
  std::filesystem::path memory;          // empty: no memory; the split of `build` for the same seed
  std::vector<std::string> test_corpus;  // all of it is test
  std::vector<std::string> variants{"frozen", "bias", "router_finetune", "knn", "memory"};  // or {"all"}
  double min_gain = 0.01;
  double damage_bound = 0.002;
  ReroutingOptions rerouting;           // of the rewiring variants
  bool rewire_recompute = false;        // they recompute earlier keys and values (KV)
  uint32_t rewire_interval = 128;       // they learn again after so many tokens
  uint32_t generations = 0;             // test documents to continue (evaluation/generations.h); 0: none
  double generation_temperature = 0.8;  // of a second continuation; the first is greedy
  uint32_t seeds = 1;     // trainings of each variant that is trained here; the memory's kind is retrained too
  bool passages = false;  // choose passages of text for the page (EvalReport::passages)
  bool no_text = false;   // no text of documents in the report, whatever the memory holds
  TaskOptions task;       // asked of the variants beside the loss
  std::optional<HostOptions> host = {};  // as of a build; then only VariantNamesInHost(), no task and no generations
};

// Names that EvalOptions::variants accepts, in the order of the report.
std::vector<std::string> VariantNames();
// Those that need of a model what another engine has, too: its losses while a hook routes.
std::vector<std::string> VariantNamesInHost();

// Scores the variants on the memory's test split (counted in the manifest) or on test_corpus.
Result<EvalReport> Evaluate(const EvalOptions& options);

struct ProbeOptions {
  CorpusOptions data;
  uint64_t sample_tokens = 4'096;
  double min_gain = 0.01;  // headroom below this is in vain
};
Result<ProbeReport> Probe(const ProbeOptions& options);

struct PlanOptions {
  BuildOptions build;
};
// Predicts RAM, time (from a short measurement on this machine) and bytes of a build without doing it.
Result<PlanReport> Plan(const PlanOptions& options);

}  // namespace pointsman
