// Evaluate(): what `pointsman eval` does, from options to report.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "indexer/builder.h"
#include "indexer/calibrate.h"
#include "indexer/evaluation/examination.h"
#include "indexer/evaluation/generations.h"
#include "indexer/evaluation/leakage.h"
#include "indexer/evaluation/passages.h"
#include "indexer/evaluation/provenance.h"
#include "indexer/evaluation/variant_choice.h"
#include "indexer/evaluation/variants.h"
#include "indexer/job.h"
#include "indexer/output_memory.h"
#include "indexer/publish.h"
#include "indexer/tasks/task_evaluation.h"
#include "indexer/tasks/task_runner.h"
#include "memory/copy_tables.h"
#include "memory/gate_groups.h"

namespace pointsman {
namespace {

// What another engine cannot be asked is refused before it is started.
Status CheckAsked(const EvalOptions& options) {
  const auto refuse = [](const std::string& what) {
    return Error{ErrorCode::kInvalidArgument, what + " our own runtime alone can be asked; drop it, or --capture"};
  };
  if (options.task.kind != "none") return refuse("--task " + options.task.kind + ":");
  if (options.generations > 0) return refuse("--generations:");
  return {};
}

class Evaluation {
 public:
  // `runtime`: the model as our own runtime has it, if that computes it.
  Evaluation(const EvalOptions& options, const LossModel& model, const MoeModel* runtime)
      : options_(options), model_(model), runtime_(runtime) {}

  Result<EvalReport> Run() {
    POINTSMAN_CHECK_OK(OpenMemory());
    const std::vector<std::string> variants = ChooseVariants({.asked = options_.variants,
                                                              .in_host = runtime_ == nullptr,
                                                              .has_memory = !options_.memory.empty(),
                                                              .retrained_kind = RetrainedKind()});
    POINTSMAN_CHECK_OK(LoadDocuments());
    POINTSMAN_CHECK_OK(MakeTask());
    POINTSMAN_CHECK_OK(LoadUnrelated());
    LookForLeakage();
    VariantInputs inputs;
    inputs.task = task_ ? &*task_ : nullptr;
    inputs.model = &model_;
    inputs.runtime = runtime_;
    inputs.test = &test_;
    inputs.unrelated = &unrelated_;
    inputs.seed = options_.data.seed;
    inputs.threads = options_.data.threads;
    inputs.rerouting = options_.rerouting;
    inputs.rewire_recompute = options_.rewire_recompute;
    inputs.keep_frozen = &frozen_scores_;
    inputs.keep_memory = &memory_scores_;
    inputs.rewire_interval = options_.rewire_interval;
    inputs.say = [this](const std::string& line) { Say(options_.data, line); };
    const bool published = memory_ && memory_->tables().output.enabled;
    const auto needs = [&](const std::string& name) { return NeedsReference(name, published); };
    if (std::any_of(variants.begin(), variants.end(), needs)) {
      POINTSMAN_CHECK_OK(MakeReference());
      inputs.reference = &*reference_;
    }
    POINTSMAN_CHECK_OK(FillMemory(inputs));
    if (reference_) inputs.size = TrainingSizeOf(Preset(), reference_->reference.size());
    const bool trains = std::any_of(variants.begin(), variants.end(), [&](const std::string& name) {
      return (name == "prototypes" || name == "entries") && (options_.seeds > 1 || !inputs.ready.contains(name));
    });
    if (trains) inputs.still = MakeStillRows(model_, Learned(), options_.data.threads);
    std::vector<VariantMaker> makers = Makers(inputs);
    std::vector<VariantRun> runs;
    for (const std::string& name : variants) {
      Progress progress(name, 0, "", ProgressOf(options_.data));
      POINTSMAN_TRY(VariantRun run, makers.front().Run(name));
      for (size_t i = 1; i < makers.size() && IsSeeded(name); ++i) {
        POINTSMAN_TRY(VariantRun other, makers[i].Run(name));
        run.other_seeds.push_back({std::move(other.test), std::move(other.unrelated)});
      }
      if (name == "memory") run.recipe = RetrainedKind();
      progress.Finish();
      if (task_) POINTSMAN_CHECK_OK(AskRerouted(*task_, *runtime_, inputs.memory, options_.rerouting, run));
      runs.push_back(std::move(run));
    }
    if (options_.generations > 0) POINTSMAN_CHECK_OK(Generate(makers.front(), variants));
    POINTSMAN_TRY(EvalReport report, Report(runs));
    if (task_) {
      POINTSMAN_TRY(report.tasks, ReportTask(*task_, *runtime_, inputs.memory, options_.task.strengths, runs));
    }
    return report;
  }

 private:
  // One a seed. The first uses what the build has trained, the others train it again; the gate is common to all.
  std::vector<VariantMaker> Makers(const VariantInputs& inputs) const {
    std::vector<VariantMaker> makers;
    for (uint32_t i = 0; i < options_.seeds; ++i) {
      VariantInputs mine = inputs;
      // With a memory from its own seed on, so that no training repeats it.
      if (options_.seeds > 1) mine.seed = (memory_ ? memory_->manifest().seed : inputs.seed) + i;
      if (i > 0) {
        mine.ready.clear();
        mine.keep_frozen = mine.keep_memory = nullptr;
        mine.task = nullptr;
      }
      makers.emplace_back(std::move(mine));
    }
    return makers;
  }

  Status MakeTask() {
    if (options_.task.kind == "none") return {};
    POINTSMAN_TRY(task_,
                  TaskRunner::Make(*runtime_, test_.documents, options_.task, options_.data.seed, options_.data.threads,
                                   [this](const std::string& line) { Say(options_.data, line); }));
    notes_.insert(notes_.end(), task_->notes().begin(), task_->notes().end());
    return {};
  }

  // The kind that is trained again with other seeds to tell how another build of the memory would differ; empty = none.
  std::string RetrainedKind() const {
    if (!memory_ || options_.seeds < 2) return "";
    const Manifest& manifest = memory_->manifest();
    if (!manifest.has_text || !manifest.settings.contains("preset") || PresetOf(manifest) == "knn") return "";
    return manifest.kind == MemoryKind::kEntries ? "entries" : "prototypes";
  }

  Status OpenMemory() {
    if (options_.memory.empty()) return {};
    POINTSMAN_TRY(memory_, Memory::Open(options_.memory, {}));
    POINTSMAN_TRY(const std::string warning, memory_->CheckFingerprint(model_.fingerprint()));
    if (!warning.empty()) Say(options_.data, "warning: " + warning);
    POINTSMAN_TRY(writer_, MemoryWriter::Open(options_.memory, {}));
    return {};
  }

  // Reference and calibration documents, and the test split.
  Status LoadDocuments() {
    std::vector<Document> test;
    if (memory_) {
      POINTSMAN_CHECK_OK(writer_->store().ForEachDocument([&](const Document& d) -> Status {
        documents_.push_back(d);
        return {};
      }));
      std::sort(documents_.begin(), documents_.end(), [](const Document& a, const Document& b) {
        return std::pair(a.hash % kLogicalShards, a.hash) < std::pair(b.hash % kLogicalShards, b.hash);
      });
      if (options_.test_corpus.empty()) POINTSMAN_CHECK_OK(LoadRecordedTest(test));
    } else {
      POINTSMAN_TRY(Corpus corpus, LoadCorpus(model_, options_.data));
      documents_ = std::move(corpus.documents);
      for (const Document& d : documents_) {
        if (d.role == SplitRole::kTest) test.push_back(d);
      }
    }
    if (!options_.test_corpus.empty()) POINTSMAN_CHECK_OK(LoadTestCorpus(test));
    test_ = MakeScoredText(model_, std::move(test), SplitRole::kTest);
    if (!test_.sequences.empty()) return {};
    if (options_.test_corpus.empty()) {
      return Error{ErrorCode::kInvalidArgument, "test split: no document; give a larger --corpus or a --test-corpus"};
    }
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("--test-corpus: nothing to score: a document (a row of a .jsonl file) needs {} tokens, and "
                    "{} are near-duplicates of reference or calibration documents",
                    SplitBudgets{}.min_tokens_per_document, left_out_)};
  }

  // The groups given, in the order of the build: a text that two groups have is of the first one.
  Result<std::vector<CorpusGroup>> GroupsAsBuilt() const {
    const std::vector<std::string> built = GroupNames(memory_->tables().gate.groups);
    std::vector<CorpusGroup> given = options_.data.groups;
    const auto place = [&](const CorpusGroup& group) { return std::ranges::find(built, group.name) - built.begin(); };
    std::ranges::sort(given, {}, place);
    if (built.size() > 1 && GroupNames(given) != built) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--group: name the groups that the memory was built from, {} (their test split is "
                               "scored), or give a --test-corpus",
                               fmt::join(built, ", "))};
    }
    if (built.size() == 1 && (given.size() > 1 || (given.empty() && options_.data.corpus.empty()))) {
      return Error{ErrorCode::kInvalidArgument,
                   "--corpus: name the corpus that the memory was built from (its test split is scored), or give a "
                   "--test-corpus"};
    }
    return given;
  }

  // The test documents that the manifest names, found again in --corpus by their content.
  Status LoadRecordedTest(std::vector<Document>& test) {
    const Manifest& manifest = memory_->manifest();
    CorpusOptions data = options_.data;
    POINTSMAN_TRY(data.groups, GroupsAsBuilt());
    data.seed = manifest.seed;
    const auto setting = [&](const char* name, uint64_t otherwise) {
      const auto found = manifest.settings.find(name);
      return found == manifest.settings.end() ? otherwise : std::strtoull(found->second.c_str(), nullptr, 10);
    };
    data.max_tokens = setting("max-tokens", data.max_tokens);
    data.max_test_tokens = setting("max-test-tokens", data.max_test_tokens);
    data.max_tokens_per_document =
        static_cast<uint32_t>(setting("max-tokens-per-document", data.max_tokens_per_document));
    const auto unit = manifest.settings.find("split-by");
    data.split_by_library = unit != manifest.settings.end() && unit->second == "library";
    // The same sample, clusters and budgets as the build's; only what the manifest names is scored.
    POINTSMAN_TRY(Corpus corpus, LoadCorpus(model_, data));
    std::map<std::string, std::vector<std::string>> tags;
    for (const Document& known : documents_) tags[known.sha256] = known.tags;
    const std::set<std::string> wanted(manifest.test_sha256.begin(), manifest.test_sha256.end());
    for (Document& d : corpus.documents) {
      if (!wanted.contains(d.sha256)) continue;
      d.role = SplitRole::kTest;
      if (const auto known = tags.find(d.sha256); known != tags.end()) d.tags = known->second;
      test.push_back(std::move(d));
    }
    if (test.size() < wanted.size()) {
      notes_.push_back(std::to_string(wanted.size() - test.size()) + " of " + std::to_string(wanted.size()) +
                       " recorded test documents are no longer in the corpus and were not scored");
    }
    return {};
  }

  Status LoadTestCorpus(std::vector<Document>& test) {
    SplitBudgets budgets;
    budgets.test_tokens = options_.data.max_test_tokens;
    budgets.max_tokens_per_document = options_.data.max_tokens_per_document;
    std::vector<Document> known;
    for (const Document& d : documents_) {
      if (d.role != SplitRole::kTest) known.push_back(d);
    }
    POINTSMAN_TRY(Corpus corpus, PrepareTestCorpus(model_.tokenizer(), IngestOf(options_.data, options_.test_corpus),
                                                   budgets, options_.data.seed, known));
    Say(options_.data, "test corpus: " + corpus.report.Summary());
    if (const uint64_t kept = corpus.documents.size() + corpus.known_left; kept < corpus.report.documents) {
      notes_.push_back(
          fmt::format("{} of {} documents of the test corpus were not scored: over --max-test-tokens, "
                      "shorter than {} tokens, or a near-duplicate of {} that were",
                      corpus.report.documents - kept, corpus.report.documents, budgets.min_tokens_per_document,
                      budgets.max_documents_per_cluster));
    }
    test = std::move(corpus.documents);
    // Without stored text (--no-text) only identical documents are known.
    std::set<std::string> identical;
    for (const Document& d : known) identical.insert(d.sha256);
    const uint64_t left =
        corpus.known_left + std::erase_if(test, [&](const Document& d) { return identical.contains(d.sha256); });
    left_out_ = left;
    if (left > 0) {
      notes_.push_back(std::to_string(left) +
                       " documents of the test corpus are near-duplicates of reference or calibration documents and "
                       "were left out");
    }
    return {};
  }

  Status LoadUnrelated() {
    CorpusOptions data = options_.data;
    if (memory_ && data.off_domain.empty()) data.off_domain = memory_->manifest().off_domain_sources;
    if (memory_) data.seed = memory_->manifest().seed;
    std::vector<std::string> sources;
    POINTSMAN_TRY(general_, LoadGeneralText(model_, data, &sources));
    if (memory_ && options_.data.off_domain.empty()) {
      const auto& recorded = memory_->manifest().damage_sha256;
      const std::set<std::string> wanted(recorded.begin(), recorded.end());
      for (Document& d : general_.documents) {
        d.role = wanted.contains(d.sha256) ? SplitRole::kTest : SplitRole::kCalibration;
      }
    }
    unrelated_ = MakeScoredText(model_, general_.documents, SplitRole::kTest);
    return {};
  }

  // What the scored texts share with the text that the memory was made from, before anything is scored.
  void LookForLeakage() {
    std::vector<Document> made_from, unrelated;
    for (const Document& d : documents_) {
      if (d.role != SplitRole::kTest && !d.tokens.empty()) made_from.push_back(d);
    }
    for (const Document& d : unrelated_.documents) {
      if (d.role == SplitRole::kTest) unrelated.push_back(d);
    }
    if (made_from.empty()) {
      notes_.push_back("leakage was not looked for: the memory holds no text (--no-text)");
      return;
    }
    leakage_.emplace();
    leakage_->left_out = left_out_;
    leakage_->test = FindOverlap(model_.tokenizer(), test_.documents, made_from);
    leakage_->unrelated = FindOverlap(model_.tokenizer(), unrelated, made_from);
    if (leakage_->test.repeated_tokens > 0) test_.repeated = RepeatedTokens(test_.documents, made_from);
  }

  // The memory's gain without the tokens that the reference text holds word for word.
  Status FillLeakage(const std::vector<VariantRun>& runs, const StatisticsOptions& statistics, EvalReport& report) {
    if (!leakage_) return {};
    const auto run_of = [&](const char* name) {
      return std::find_if(runs.begin(), runs.end(), [&](const VariantRun& r) { return r.name == name; });
    };
    const auto memory = run_of("memory"), frozen = run_of("frozen");
    if (memory != runs.end() && frozen != runs.end() && !memory->test_fresh.empty()) {
      POINTSMAN_TRY(const auto differences, PairedDifferences(memory->test_fresh, frozen->test_fresh));
      leakage_->gain_without_repeated = EstimateDifference(differences, statistics);
    }
    for (std::string& note : LeakageNotes(*leakage_)) report.notes.push_back(std::move(note));
    report.leakage = std::move(leakage_);
    return {};
  }

  Status MakeReference() {
    const bool has_text = std::any_of(documents_.begin(), documents_.end(), [](const Document& d) {
      return d.role == SplitRole::kReference && !d.tokens.empty();
    });
    if (!has_text) {
      return Error{ErrorCode::kInvalidArgument,
                   options_.memory.string() +
                       ": holds no text (built with --no-text), so variants that train cannot be "
                       "made; use --variants frozen,memory"};
    }
    ReferenceOptions reference;
    reference.threads = options_.data.threads;
    if (!memory_) reference.groups = GroupNames(options_.data.groups);  // a memory brings its gate
    POINTSMAN_TRY(reference_, MakeReferenceSet(model_, documents_, reference));
    return {};
  }

  // Unrelated text that trained memories may learn from.
  std::vector<Sequence> Learned() const {
    return MakeSequences(general_.documents, SplitRole::kReference, SequenceOptionsOf(model_.config()));
  }

  // Of the memory that is judged, so that what is trained here is trained alike.
  std::string Preset() const { return memory_ ? PresetOf(memory_->manifest()) : "default"; }

  Status FillMemory(VariantInputs& inputs) {
    if (memory_) {
      inputs.memory = std::shared_ptr<const RoutingTables>(memory_, &memory_->tables());
      inputs.gate = CopyGate(inputs.memory->gate);
      POINTSMAN_TRY(KeptKinds kept, LoadKeptKinds(options_.memory));
      for (const auto& [name, tables] : kept.tables) inputs.ready[name] = RoutingAlone(tables);
      inputs.ready_build_s = std::move(kept.build_s);
      const std::string kind = memory_->manifest().kind == MemoryKind::kEntries ? "entries" : "prototypes";
      if (memory_->manifest().settings.contains("preset") && Preset() != "knn") {
        inputs.ready[kind] = RoutingAlone(inputs.memory);
        inputs.ready_build_s["memory"] = inputs.ready_build_s[kind];
      }
      return {};
    }
    if (!reference_) return {};
    const ScoredText anchor = MakeScoredText(model_, general_.documents, SplitRole::kCalibration);
    POINTSMAN_TRY(inputs.gate, MakeGate(reference_->reference, Learned(), reference_->gate_groups, {}));
    const GateSamples samples =
        SampleGate(inputs.gate, reference_->calibration, anchor.sequences, reference_->gate_groups);
    SetRamp(samples, GateQuantiles{}, inputs.gate);  // without a memory nothing is tightened by measurement
    return {};
  }

  // Continuations by frozen first (the others are compared with it), greedy and sampled.
  Status Generate(VariantMaker& maker, const std::vector<std::string>& variants) {
    const std::vector<GenerationPrompt> prompts = MakePrompts(test_, options_.generations);
    if (prompts.empty()) {
      notes_.push_back("no test document is long enough to be continued");
      return {};
    }
    for (const double temperature : {0.0, options_.generation_temperature}) {
      const GenerationOptions options{temperature, options_.data.seed, options_.data.threads};
      std::vector<std::vector<int32_t>> frozen;
      for (const std::string& name : variants) {
        if (name != "frozen" && name != "memory" && !OutputVariants::Has(name)) continue;
        Progress progress("continue with " + name, 0, "", ProgressOf(options_.data));
        POINTSMAN_TRY(const auto tables, maker.Tables(name));
        POINTSMAN_TRY(auto texts, Continue(*runtime_, prompts, tables, options));
        GenerationScore score = ScoreTexts(prompts, texts);
        score.variant = name;
        score.temperature = temperature;
        if (name != "frozen") {
          POINTSMAN_TRY(score.match_vs_frozen, CompareMatches(prompts, texts, frozen, options.seed));
        }
        generation_.push_back(std::move(score));
        if (name == "frozen") frozen = std::move(texts);
      }
      if (options_.generation_temperature == 0) break;
    }
    generation_.push_back(ScoreTruth(prompts));
    return {};
  }

  Result<EvalReport> Report(const std::vector<VariantRun>& runs) {
    ScoringOptions scoring;
    scoring.statistics.seed = options_.data.seed;
    scoring.verdict.min_gain = options_.min_gain;
    scoring.verdict.damage_bound = options_.damage_bound;
    scoring.verdict.equal_experts = model_.ExpertsAreEqual();
    POINTSMAN_TRY(EvalReport report, MakeReport(runs, scoring));
    report.notes.insert(report.notes.begin(), notes_.begin(), notes_.end());
    POINTSMAN_CHECK_OK(FillLeakage(runs, scoring.statistics, report));
    report.generation = std::move(generation_);
    report.reference_documents = CountDocuments(documents_, SplitRole::kReference);
    report.reference_tokens = reference_ ? reference_->tokens() : CountTokens(documents_, SplitRole::kReference);
    POINTSMAN_CHECK_OK(LookCloser(scoring.statistics, report));
    if (memory_) {
      Manifest manifest = memory_->manifest();
      report.stale = manifest.verdict.stale && !options_.test_corpus.empty();  // its own split: scored as it is now
      if (options_.test_corpus.empty()) {
        report.test_looks = ++manifest.test_looks;
        manifest.verdict = Summarize(report);
        POINTSMAN_CHECK_OK(writer_->UpdateManifest(manifest));
      }
    }
    return report;
  }

  // Where the memory helps, examples, and where everything comes from.
  Status LookCloser(const StatisticsOptions& statistics, EvalReport& report) {
    report.provenance = ProvenanceOf(options_, model_, memory_.get(), documents_, unrelated_);
    if (memory_scores_.test.empty()) {
      report.passages_absent = "no memory was scored";
      return {};
    }
    const std::shared_ptr<const RoutingTables> tables(memory_, &memory_->tables());
    POINTSMAN_TRY(report.breakdown, Examine({.model = &model_,
                                             .test = &test_,
                                             .frozen = &frozen_scores_,
                                             .memory = &memory_scores_,
                                             .tables = tables,
                                             .statistics = statistics,
                                             .threads = options_.data.threads}));
    if (options_.no_text || !memory_->manifest().has_text) {
      report.passages_absent = options_.no_text ? "--no-text was given" : "the memory was built with --no-text";
      return {};
    }
    if (!options_.passages) return {};
    const DocumentTexts texts(model_.tokenizer(), documents_);
    POINTSMAN_TRY(report.passages, ChoosePassages({.model = &model_,
                                                   .test = &test_,
                                                   .unrelated = &unrelated_,
                                                   .frozen = &frozen_scores_,
                                                   .memory = &memory_scores_,
                                                   .tables = tables,
                                                   .texts = &texts}));
    return {};
  }

  const EvalOptions& options_;
  const LossModel& model_;
  const MoeModel* runtime_;  // CheckAsked: never null where one of what needs it is asked for
  std::shared_ptr<const Memory> memory_;
  std::unique_ptr<MemoryWriter> writer_;
  std::vector<Document> documents_;
  Corpus general_;
  ScoredText test_, unrelated_;
  TokenScores frozen_scores_, memory_scores_;
  std::optional<ReferenceSet> reference_;
  std::optional<LeakageReport> leakage_;
  uint64_t left_out_ = 0;
  std::vector<GenerationScore> generation_;
  std::vector<std::string> notes_;
  std::optional<TaskRunner> task_;
};

}  // namespace

Result<EvalReport> Evaluate(const EvalOptions& options) {
  POINTSMAN_CHECK_OK(CheckVariants(options.variants, options.host.has_value()));
  if (options.memory.empty()) POINTSMAN_CHECK_OK(CheckCorpus(options.data));
  if (options.host) {
    POINTSMAN_CHECK_OK(CheckAsked(options));
    POINTSMAN_TRY(const std::unique_ptr<HostedModel> model, LoadHostedModel(options.data, *options.host));
    return Evaluation(options, *model, nullptr).Run();
  }
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModelOrNameCapture(options.data));
  return Evaluation(options, *model, model.get()).Run();
}

}  // namespace pointsman
