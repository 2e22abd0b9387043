// Evaluate(): what `pointsman eval` does, from options to report.
#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <utility>

#include "indexer/builder.h"
#include "indexer/calibrate.h"
#include "indexer/evaluation/controls.h"
#include "indexer/evaluation/variants.h"
#include "indexer/job.h"
#include "indexer/publish.h"

namespace pointsman {
namespace {

bool NeedsMemory(const std::string& variant) {
  static constexpr std::array kNames{"memory",          "random_neighbours", "shuffled_values", "memory_second_half",
                                     "memory+rewiring", "warm_rewiring"};
  return std::find(kNames.begin(), kNames.end(), variant) != kNames.end();
}

bool NeedsReference(const std::string& variant) {
  static constexpr std::array kNames{"frozen", "oracle", "frozen_second_half", "rewiring"};
  return !NeedsMemory(variant) && std::find(kNames.begin(), kNames.end(), variant) == kNames.end();
}

class Evaluation {
 public:
  Evaluation(const EvalOptions& options, const MoeModel& model) : options_(options), model_(model) {}

  Result<EvalReport> Run() {
    POINTSMAN_TRY(const std::vector<std::string> variants, ChosenVariants());
    POINTSMAN_CHECK_OK(OpenMemory());
    POINTSMAN_CHECK_OK(LoadDocuments());
    POINTSMAN_CHECK_OK(LoadUnrelated());
    VariantInputs inputs;
    inputs.model = &model_;
    inputs.test = &test_;
    inputs.unrelated = &unrelated_;
    inputs.seed = options_.data.seed;
    inputs.threads = options_.data.threads;
    inputs.rerouting = options_.rerouting;
    inputs.rewire_recompute = options_.rewire_recompute;
    inputs.rewire_interval = options_.rewire_interval;
    inputs.say = [this](const std::string& line) { Say(options_.data, line); };
    if (std::any_of(variants.begin(), variants.end(), NeedsReference)) {
      POINTSMAN_CHECK_OK(MakeReference());
      inputs.reference = &*reference_;
    }
    POINTSMAN_CHECK_OK(FillMemory(inputs));
    std::vector<VariantRun> runs;
    VariantMaker maker(std::move(inputs));
    for (const std::string& name : variants) {
      Progress progress(name, 0, "", {.quiet = options_.data.quiet});
      POINTSMAN_TRY(VariantRun run, maker.Run(name));
      progress.Finish();
      runs.push_back(std::move(run));
    }
    return Report(runs);
  }

 private:
  Result<std::vector<std::string>> ChosenVariants() const {
    const std::vector<std::string> known = VariantNames();
    std::vector<std::string> chosen = options_.variants;
    if (chosen == std::vector<std::string>{"all"}) chosen = known;
    for (const std::string& name : chosen) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        std::string names;
        for (const std::string& k : known) names += (names.empty() ? "" : ", ") + k;
        return Error{ErrorCode::kInvalidArgument,
                     "--variants " + name + ": not a variant; use all or some of " + names};
      }
    }
    // Everything is a difference to frozen, on the same tokens.
    const bool halves = std::any_of(chosen.begin(), chosen.end(), [](const std::string& name) {
      return name.ends_with("rewiring") || name.ends_with("_second_half");
    });
    chosen.push_back("frozen");
    if (halves) chosen.push_back("frozen_second_half");
    std::vector<std::string> ordered;  // the report's order
    for (const std::string& name : known) {
      const bool asked = std::find(chosen.begin(), chosen.end(), name) != chosen.end();
      if (options_.memory.empty() && NeedsMemory(name)) continue;
      if (asked) ordered.push_back(name);
    }
    return ordered;
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
    if (test_.sequences.empty()) {
      return Error{ErrorCode::kInvalidArgument, "test split: no document; give a larger --corpus or a --test-corpus"};
    }
    return {};
  }

  // The test documents that the manifest names, found again in --corpus by their content.
  Status LoadRecordedTest(std::vector<Document>& test) {
    if (options_.data.corpus.empty()) {
      return Error{ErrorCode::kInvalidArgument,
                   "--corpus: name the corpus that the memory was built from (its test split is scored), or give a "
                   "--test-corpus"};
    }
    const Manifest& manifest = memory_->manifest();
    CorpusOptions data = options_.data;
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
    const std::set<std::string> wanted(manifest.test_sha256.begin(), manifest.test_sha256.end());
    for (Document& d : corpus.documents) {
      if (!wanted.contains(d.sha256)) continue;
      d.role = SplitRole::kTest;
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
    test = std::move(corpus.documents);
    // Without stored text (--no-text) only identical documents are known.
    std::set<std::string> identical;
    for (const Document& d : known) identical.insert(d.sha256);
    const uint64_t left =
        corpus.known_left + std::erase_if(test, [&](const Document& d) { return identical.contains(d.sha256); });
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
    POINTSMAN_TRY(reference_, MakeReferenceSet(model_, documents_, reference));
    return {};
  }

  Status FillMemory(VariantInputs& inputs) {
    if (memory_) {
      inputs.memory = std::shared_ptr<const RoutingTables>(memory_, &memory_->tables());
      inputs.gate = CopyTables(*inputs.memory).gate;
      POINTSMAN_TRY(KeptKinds kept, LoadKeptKinds(options_.memory));
      inputs.ready = std::move(kept.tables);
      inputs.ready_build_s = std::move(kept.build_s);
      const std::string kind = memory_->manifest().kind == MemoryKind::kEntries ? "entries" : "prototypes";
      if (memory_->manifest().settings.count("preset") && memory_->manifest().settings.at("preset") != "knn") {
        inputs.ready[kind] = inputs.memory;
        inputs.ready_build_s["memory"] = inputs.ready_build_s[kind];
      }
      return {};
    }
    if (!reference_) return {};
    const ScoredText anchor = MakeScoredText(model_, general_.documents, SplitRole::kCalibration);
    const SequenceOptions sequences = SequenceOptionsOf(model_.config());
    POINTSMAN_TRY(inputs.gate, MakeGate(reference_->reference,
                                        MakeSequences(general_.documents, SplitRole::kReference, sequences), {}));
    const GateSamples samples = SampleGate(inputs.gate, reference_->calibration, anchor.sequences);
    SetRamp(samples, GateQuantiles{}, inputs.gate);  // without a memory nothing is tightened by measurement
    return {};
  }

  Result<EvalReport> Report(const std::vector<VariantRun>& runs) {
    ScoringOptions scoring;
    scoring.statistics.seed = options_.data.seed;
    scoring.verdict.min_gain = options_.min_gain;
    scoring.verdict.damage_bound = options_.damage_bound;
    POINTSMAN_TRY(EvalReport report, MakeReport(runs, scoring));
    report.notes.insert(report.notes.begin(), notes_.begin(), notes_.end());
    report.reference_documents = CountDocuments(documents_, SplitRole::kReference);
    report.reference_tokens = reference_ ? reference_->tokens() : CountTokens(documents_, SplitRole::kReference);
    if (memory_) {
      Manifest manifest = memory_->manifest();
      report.stale = manifest.verdict.stale;
      if (options_.test_corpus.empty()) {
        report.test_looks = ++manifest.test_looks;
        manifest.verdict = Summarize(report);
        POINTSMAN_CHECK_OK(writer_->UpdateManifest(manifest));
      }
    }
    return report;
  }

  const EvalOptions& options_;
  const MoeModel& model_;
  std::shared_ptr<const Memory> memory_;
  std::unique_ptr<MemoryWriter> writer_;
  std::vector<Document> documents_;
  Corpus general_;
  ScoredText test_, unrelated_;
  std::optional<ReferenceSet> reference_;
  std::vector<std::string> notes_;
};

}  // namespace

Result<EvalReport> Evaluate(const EvalOptions& options) {
  if (options.memory.empty() && options.data.corpus.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--corpus: name at least one file or folder, or a --memory"};
  }
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModel(options.data));
  return Evaluation(options, *model).Run();
}

}  // namespace pointsman
