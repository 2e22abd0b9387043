#include "indexer/builder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "indexer/build_stages.h"
#include "indexer/candidates.h"
#include "indexer/evaluation/routing_trace.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/evaluation/scoring.h"
#include "indexer/gate_search.h"
#include "indexer/job.h"
#include "indexer/publish.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

Result<std::vector<std::string>> KindsOf(const BuildOptions& options) {
  if (options.preset == "knn") return std::vector<std::string>{"knn"};
  if (options.kind == "auto") return std::vector<std::string>{"prototypes", "entries"};
  if (options.kind == "prototypes" || options.kind == "entries") return std::vector<std::string>{options.kind};
  return Error{ErrorCode::kInvalidArgument, "--kind " + options.kind + ": use auto, entries or prototypes"};
}

Status CheckOptions(const BuildOptions& options) {
  const auto wrong = [](const std::string& text) { return Error{ErrorCode::kInvalidArgument, text}; };
  if (options.preset != "default" && options.preset != "fast" && options.preset != "knn") {
    return wrong("--preset " + options.preset + ": use default, fast or knn");
  }
  if (options.preset == "knn" && options.kind == "prototypes") {
    return wrong("--preset knn makes entries; drop --kind prototypes or the preset");
  }
  if (options.blend != "delta" && options.blend != "logits" && options.blend != "assignments") {
    return wrong("--blend " + options.blend + ": use delta, logits or assignments");
  }
  if (options.blend != "delta" && options.preset != "knn") {
    return wrong("--blend " + options.blend +
                 ": values trained through the model's loss are changes (delta); "
                 "logits and assignments need --preset knn");
  }
  if (options.host && options.preset == "knn") {
    return wrong(
        "--preset knn: values of the published recipe are made by our own runtime only; use --preset default or "
        "fast with --capture transformers");
  }
  if (options.host && options.output_memory) {
    return wrong("--output-memory: it has no vote in transformers; drop it, or --capture transformers");
  }
  POINTSMAN_CHECK_OK(CheckCorpus(options.data));
  if (options.out.empty()) return wrong("--out: name the memory's directory");
  return {};
}

ValueKind ValueKindOf(const std::string& blend) {
  if (blend == "logits") return ValueKind::kLogits;
  return blend == "assignments" ? ValueKind::kAssignments : ValueKind::kDelta;
}

// Layers named by --layers, or empty for all.
Result<std::vector<int>> LayersOf(const std::string& text, const LossModel& model) {
  std::vector<int> layers, known;
  for (int64_t i = 0; i < model.config().num_layers; ++i) known.push_back(model.LayerNumber(static_cast<int>(i)));
  if (text == "auto" || text == "all") return layers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    if (item.empty() || item.size() > 4 || item.find_first_not_of("0123456789") != std::string::npos ||
        std::find(known.begin(), known.end(), std::stoi(item)) == known.end()) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--layers {}: use auto, all or MoE layers with commas between; the model's are {}", text,
                               fmt::join(known, ","))};
    }
    layers.push_back(std::stoi(item));
    begin = end + 1;
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

void KeepLayers(const std::vector<int>& layers, OwnedTables& tables) {
  if (layers.empty()) return;
  std::erase_if(tables.layers,
                [&](const OwnedLayer& l) { return std::find(layers.begin(), layers.end(), l.layer) == layers.end(); });
}

// Hash of everything that the stages are made from.
std::string InputsHash(const BuildOptions& options, const Fingerprint& model, const Corpus& corpus,
                       const Corpus& general) {
  Sha256Stream hash;
  for (const std::string& part : {model.config_sha256, model.router_sha256, model.tokenizer_sha256,
                                  model.experts_sha256, options.kind, options.preset, options.blend, options.layers}) {
    hash.Update(part + "\n");
  }
  hash.Update(std::to_string(options.data.seed) + "\n");
  hash.Update(fmt::format("training {} {} {}\n", kTrainingSteps, kLeastEpochs, kMostEpochs));
  if (options.output_memory) hash.Update("output-memory\n");
  if (options.host) hash.Update("transformers " + options.host->dtype + "\n");
  for (const CorpusGroup& group : options.data.groups) hash.Update("group " + group.name + "\n");
  for (const Corpus* text : {&corpus, &general}) {
    for (const Document& d : text->documents) {
      hash.Update(d.sha256 + " " + std::to_string(static_cast<int>(d.role)) + " " + std::to_string(d.tokens.size()) +
                  "\n");
      for (const std::string& tag : d.tags) hash.Update("tag " + tag + "\n");
    }
  }
  return hash.Hex();
}

class Builder {
 public:
  // `runtime`: the model as our own runtime has it, if that computes it.
  Builder(const BuildOptions& options, const LossModel& model, const MoeModel* runtime)
      : options_(options), model_(model), runtime_(runtime), clock_(ProgressOf(options.data)) {}

  Result<BuildReport> Run();

 private:
  Result<Candidate> MakeCandidate(const std::string& name);
  Result<VariantRun> ScoreGated(const Candidate& candidate, const ScoredText& text);
  Result<size_t> Choose(std::vector<Candidate>& candidates);
  Result<EvalReport> Judge(const std::shared_ptr<const RoutingTables>& tables);
  Result<RoutingSignal> Signal(const std::shared_ptr<const RoutingTables>& tables);
  void Say(const std::string& line) const { pointsman::Say(options_.data, line); }

  const BuildOptions& options_;
  const LossModel& model_;
  const MoeModel* runtime_;  // CheckOptions: never null where `knn` is built
  Corpus corpus_, general_;
  std::vector<std::string> general_sources_;
  ReferenceSet set_;
  std::vector<Sequence> learned_;  // unrelated text to learn from: what to leave alone, which token pairs are common
  StillRows still_;
  std::vector<int> layers_;
  std::optional<BuildStages> stages_;
  StageClock clock_;
};

Result<Candidate> Builder::MakeCandidate(const std::string& name) {
  if (options_.resume) {
    if (std::optional<Candidate> done = stages_->Load(name)) {
      Say(name + ": finished by an earlier run, reused");
      return std::move(*done);
    }
  }
  const TrainingSize size = TrainingSizeOf(options_.preset, set_.reference.size());
  const uint64_t epochs = name == "knn" ? 1 : static_cast<uint64_t>(size.epochs);
  Progress progress(name, epochs * CountTargets(set_.reference), "tokens", ProgressOf(options_.data));
  CandidateOptions options;
  options.epochs = size.epochs;
  options.seed = options_.data.seed;
  options.threads = options_.data.threads;
  options.value_kind = ValueKindOf(options_.blend);
  options.still = &still_;
  options.on_progress = [&](uint64_t tokens) { progress.Advance(tokens); };
  options.on_epoch = [&](const std::string&, const EpochReport& e) {
    char line[160];
    std::snprintf(line, sizeof line, "%s: epoch %d, held-out %.4f nats, leave-one-out %.4f, %.0f s", name.c_str(),
                  e.epoch, e.held_out_nll, e.train_nll, e.seconds);
    Say(line);
    progress.NoteLoss(e.held_out_nll);
  };
  PrototypeOptions prototypes;
  prototypes.count = std::min(PrototypeCount(set_.tokens()), size.max_prototypes);
  Result<Candidate> made = name == "knn"       ? BuildKnn(*runtime_, set_, options)
                           : name == "entries" ? TrainEntries(model_, set_, EntryOptions{}, options)
                                               : TrainPrototypes(model_, set_, prototypes, options);
  if (!made.ok()) return made.error();
  progress.Finish();
  KeepLayers(layers_, made.value().tables);
  POINTSMAN_CHECK_OK(stages_->Save(made.value()));
  return made;
}

Result<VariantRun> Builder::ScoreGated(const Candidate& candidate, const ScoredText& text) {
  const auto errors = std::make_shared<HookErrors>();
  ScorerOptions options;
  options.threads = options_.data.threads;
  return ScoreVariant(candidate.name, model_, TableHooks(MakeTables(candidate.tables), errors), errors, text, {},
                      options);
}

// Gain per byte on the calibration split, under the gate (design.md 5).
Result<size_t> Builder::Choose(std::vector<Candidate>& candidates) {
  if (candidates.size() == 1) return size_t{0};
  ScoredText calibration = MakeScoredText(model_, corpus_.documents, SplitRole::kCalibration);
  ScorerOptions scorer;
  scorer.threads = options_.data.threads;
  POINTSMAN_TRY(const VariantRun frozen, ScoreVariant("frozen", model_, {}, nullptr, calibration, {}, scorer));
  size_t best = 0;
  double best_value = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    POINTSMAN_TRY(const VariantRun run, ScoreGated(candidates[i], calibration));
    POINTSMAN_TRY(const auto differences, PairedDifferences(run.test, frozen.test));
    const double gain = WeightedMean(differences);
    const double bytes =
        static_cast<double>(TableBytes(*MakeTables(candidates[i].tables))) / static_cast<double>(set_.tokens());
    char line[160];
    std::snprintf(line, sizeof line, "%s: gain on calibration %+.4f nats under the gate, %.0f bytes a token",
                  candidates[i].name.c_str(), gain, bytes);
    Say(line);
    if (i == 0 || -gain / bytes > best_value) {
      best = i;
      best_value = -gain / bytes;
    }
  }
  Say("kind: " + candidates[best].name + " (most gain per byte on the calibration split)");
  return best;
}

// Stage 6: frozen against the published memory, on the test split and the other half of the unrelated text.
Result<EvalReport> Builder::Judge(const std::shared_ptr<const RoutingTables>& tables) {
  const ScoredText test = MakeScoredText(model_, corpus_.documents, SplitRole::kTest);
  const ScoredText unrelated = MakeScoredText(model_, general_.documents, SplitRole::kTest);
  ScorerOptions scorer;
  scorer.threads = options_.data.threads;
  const auto errors = std::make_shared<HookErrors>();
  std::vector<VariantRun> runs;
  POINTSMAN_TRY(VariantRun frozen, ScoreVariant("frozen", model_, {}, nullptr, test, unrelated, scorer));
  POINTSMAN_TRY(VariantRun memory,
                ScoreVariant("memory", model_, TableHooks(tables, errors), errors, test, unrelated, scorer));
  runs.push_back(std::move(frozen));
  runs.push_back(std::move(memory));
  ScoringOptions scoring;
  scoring.statistics.seed = options_.data.seed;
  scoring.verdict.min_gain = options_.min_gain;
  scoring.verdict.damage_bound = options_.damage_bound;
  scoring.verdict.equal_experts = model_.ExpertsAreEqual();
  return MakeReport(runs, scoring);
}

// What a server will meet on text of this kind, from documents that the memory has not learned.
Result<RoutingSignal> Builder::Signal(const std::shared_ptr<const RoutingTables>& tables) {
  const auto sequences = MakeSequences(corpus_.documents, SplitRole::kCalibration, SequenceOptionsOf(model_.config()));
  TallyOptions options{.max_tokens = 8192, .threads = options_.data.threads};
  POINTSMAN_TRY(const RoutingTally tally, TallyRouting(model_, tables, sequences, options));
  return SignalOf(tally);
}

Result<BuildReport> Builder::Run() {
  POINTSMAN_TRY(const std::vector<std::string> kinds, KindsOf(options_));
  POINTSMAN_TRY(layers_, LayersOf(options_.layers, model_));
  POINTSMAN_TRY(const std::unique_ptr<MemoryWriter> writer, MemoryWriter::Open(options_.out, {.create = true}));
  clock_.Start("ingest");
  POINTSMAN_TRY(corpus_, LoadCorpus(model_, options_.data));
  POINTSMAN_TRY(general_, LoadGeneralText(model_, options_.data, &general_sources_));
  const std::string inputs = InputsHash(options_, model_.fingerprint(), corpus_, general_);
  stages_.emplace(FileSystem::Real(), options_.out / "build", inputs);

  if (const Result<Manifest> published = writer->manifest(); published.ok()) {
    const auto built_from = published.value().settings.find("inputs");
    const bool same = built_from != published.value().settings.end() && built_from->second == inputs;
    if (!options_.resume || !same) {
      return Error{same ? ErrorCode::kInvalidArgument : ErrorCode::kMismatch,
                   options_.out.string() + ": already holds a memory" + (same ? "" : " of other inputs") +
                       "; choose another --out" + (same ? ", or --resume to keep it" : "")};
    }
    if (published.value().verdict.verdict != "absent") {
      Say("the memory is there already, from the same inputs: nothing to do");
      POINTSMAN_TRY(const auto memory, Memory::Open(options_.out, {}));
      return BuildReport{published.value(), memory->stats(), corpus_.report, clock_.Finish(), {}};
    }
  } else if (!options_.resume) {
    POINTSMAN_CHECK_OK(stages_->Clear());
  }

  clock_.Start("capture");
  Progress capture("capture", CountTokens(corpus_.documents, SplitRole::kReference), "tokens",
                   ProgressOf(options_.data));
  ReferenceOptions reference;
  reference.threads = options_.data.threads;
  reference.groups = GroupNames(options_.data.groups);
  reference.on_progress = [&](uint64_t tokens) { capture.Advance(tokens); };
  POINTSMAN_TRY(set_, MakeReferenceSet(model_, corpus_.documents, reference));
  learned_ = MakeSequences(general_.documents, SplitRole::kReference, SequenceOptionsOf(model_.config()));
  still_ = MakeStillRows(model_, learned_, options_.data.threads);
  POINTSMAN_CHECK_OK(model_.status());
  capture.Finish();

  clock_.Start("train");
  std::vector<Candidate> candidates;
  for (const std::string& kind : kinds) {
    POINTSMAN_TRY(Candidate candidate, MakeCandidate(kind));
    candidates.push_back(std::move(candidate));
  }
  clock_.Start("gate");
  GateSearchOptions gate;
  gate.seed = options_.data.seed;
  gate.threads = options_.data.threads;
  gate.damage_bound = options_.damage_bound;
  gate.output_memory = options_.output_memory;
  gate.say = [&](const std::string& line) { Say(line); };
  const ScoredText unrelated = MakeScoredText(model_, general_.documents, SplitRole::kCalibration);
  POINTSMAN_CHECK_OK(SearchGates(model_, set_, learned_, unrelated, gate, candidates));
  POINTSMAN_TRY(const size_t chosen, Choose(candidates));

  clock_.Start("write");
  PublishInputs publish{options_, model_.fingerprint(), corpus_, general_, general_sources_, set_, inputs};
  POINTSMAN_CHECK_OK(PublishMemory(*writer, publish, candidates, chosen));
  POINTSMAN_TRY(const auto memory, Memory::Open(options_.out, {}));

  clock_.Start("verdict");
  const std::shared_ptr<const RoutingTables> tables(memory, &memory->tables());
  POINTSMAN_TRY(const EvalReport report, Judge(tables));
  Manifest manifest = memory->manifest();
  manifest.verdict = Summarize(report);
  POINTSMAN_TRY(manifest.calibration, Signal(tables));
  manifest.test_looks += 1;
  POINTSMAN_CHECK_OK(writer->UpdateManifest(manifest));
  POINTSMAN_CHECK_OK(stages_->Clear());
  BuildReport result{manifest, memory->stats(), corpus_.report, clock_.Finish(), report.notes};
  return result;
}

}  // namespace

Result<BuildReport> BuildMemory(const BuildOptions& options) {
  POINTSMAN_CHECK_OK(CheckOptions(options));
  if (options.host) {
    POINTSMAN_TRY(const std::unique_ptr<HostedModel> model, LoadHostedModel(options.data, *options.host));
    return Builder(options, *model, nullptr).Run();
  }
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModelOrNameCapture(options.data));
  return Builder(options, *model, model.get()).Run();
}

}  // namespace pointsman
