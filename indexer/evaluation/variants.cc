#include "indexer/evaluation/variants.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "adapt/linear_part.h"
#include "adapt/tensors.h"
#include "adapt/token_values.h"
#include "indexer/builder.h"
#include "indexer/evaluation/controls.h"
#include "indexer/evaluation/rerouting_scorer.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

// At most, and no fewer than a memory has; the calibration split stops earlier.
int BaselineEpochs(const TrainingSize& memory) { return std::max(8, memory.epochs); }
constexpr double kBiasRate = 0.02;
constexpr double kRouterRate = 3e-3;  // findings section 1, "router fine-tuning only"
constexpr double kFullFinetuneRate = 1e-3;

std::string Formatted(const char* format, double a, double b) {
  char text[160];
  std::snprintf(text, sizeof text, format, a, b);
  return text;
}

// A linear part as tables, so that the gate can act on it: one row a layer, always found, whose confidence is 1.
OwnedTables LinearTables(const LinearPart& module, const LossModel& model) {
  const MoeConfig& config = model.config();
  constexpr float kAlwaysSure = 1e9f;  // tau2: g = exp((s - 1) / tau2)
  OwnedTables tables;
  tables.kind = MemoryKind::kPrototypes;
  tables.top_k = static_cast<uint32_t>(config.experts_per_token);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    OwnedLayer owned;
    owned.layer = model.LayerNumber(layer);
    owned.experts = static_cast<uint32_t>(config.num_experts);
    owned.keys.hidden = owned.keys.dim = static_cast<uint32_t>(config.hidden_size);
    std::vector<float> key(config.hidden_size);
    key.front() = 1;
    owned.keys.SetKeys(key);
    const at::Tensor bias = module.bias(layer);
    owned.SetValues(bias.defined() ? VectorOf(bias) : std::vector<float>(config.num_experts));
    owned.calibration = {.k = 1, .tau = 1, .tau2 = kAlwaysSure};
    ExportLinear(module, layer, owned);
    tables.layers.push_back(std::move(owned));
  }
  return tables;
}

bool IsSecondHalf(const std::string& name) { return name.ends_with("_second_half") || name.ends_with("rewiring"); }

}  // namespace

std::vector<std::string> VariantNames() {
  return {"frozen",
          "bias",
          "bias+gate",
          "router_finetune",
          "router_finetune+gate",
          "full_finetune",
          "knn",
          "knn+gate",
          "c3po",
          "c3po+gate",
          "entries",
          "prototypes",
          "memory",
          "knn_lm",
          "knn_lm+gate",
          "memory+output",
          "oracle",
          "random_neighbours",
          "shuffled_values",
          "frozen_second_half",
          "rewiring",
          "memory_second_half",
          "memory+rewiring",
          "warm_rewiring"};
}

std::vector<std::string> VariantNamesInHost() {
  return {"frozen",     "bias",   "bias+gate", "router_finetune",   "router_finetune+gate", "entries",
          "prototypes", "memory", "oracle",    "random_neighbours", "shuffled_values"};
}

bool IsSeeded(const std::string& name) {
  return name.starts_with("bias") || name.starts_with("router_finetune") || name == "full_finetune" ||
         name == "entries" || name == "prototypes";
}

Result<VariantRun> VariantMaker::Run(const std::string& name) {
  if (name == "frozen") return Score(name, {}, nullptr, in_.keep_frozen);
  if (name.starts_with("bias") || name.starts_with("router_finetune")) return RunLinear(name);
  if (name == "full_finetune") return RunFullFinetune();
  if (name == "oracle") return RunOracle();
  if (name == "knn" || name == "knn+gate") return RunKnn(name);
  if (name == "c3po" || name == "c3po+gate") return RunC3po(name);
  if (name == "entries" || name == "prototypes") return RunTrainedMemory(name);
  if (name == "random_neighbours" || name == "shuffled_values") return RunControl(name);
  if (OutputVariants::Has(name)) return RunOutput(name);
  if (IsSecondHalf(name)) return RunSecondHalf(name);
  if (name == "memory") return RunTables(name, in_.memory, in_.ready_build_s["memory"]);
  return Error{ErrorCode::kInvalidArgument, "--variants: " + name + " is not a variant; see pointsman eval --help"};
}

Result<VariantRun> VariantMaker::Score(const std::string& name, const HookFactory& hooks,
                                       const std::shared_ptr<HookErrors>& errors, TokenScores* keep,
                                       const MoeModel* other) {
  const LossModel& model = other ? *other : *in_.model;
  ScorerOptions options;
  options.keep = keep;
  options.threads = in_.threads;
  POINTSMAN_TRY(VariantRun run, ScoreVariant(name, model, hooks, errors, *in_.test, *in_.unrelated, options));
  if (in_.task && in_.task->Asks(name)) {
    POINTSMAN_TRY(run.task_marks, in_.task->Run(name, other ? *other : *in_.runtime, hooks, errors));
  }
  return run;
}

Result<VariantRun> VariantMaker::RunTables(const std::string& name, std::shared_ptr<const RoutingTables> tables,
                                           double build_s) {
  if (tables == in_.memory && memory_run_) {  // `memory` and the kind that it is of: the same tables
    VariantRun run = *memory_run_;
    run.name = name;
    return run;
  }
  const auto errors = std::make_shared<HookErrors>();
  TokenScores* keep = tables == in_.memory ? in_.keep_memory : nullptr;
  POINTSMAN_TRY(VariantRun run, Score(name, TableHooks(tables, errors), errors, keep));
  if (build_s > 0) run.build_s = build_s;
  if (in_.reference) {
    run.bytes_per_token = static_cast<double>(TableBytes(*tables)) / static_cast<double>(in_.reference->tokens());
  }
  if (tables == in_.memory) memory_run_ = run;
  return run;
}

Result<VariantRun> VariantMaker::RunLinear(const std::string& name) {
  constexpr std::string_view kGate = "+gate";
  const bool gated = name.ends_with(kGate);
  const std::string kind = gated ? name.substr(0, name.size() - kGate.size()) : name;
  const TrainedLinear& trained = TrainLinear(kind);
  if (gated) {
    OwnedTables tables = LinearTables(trained.module, *in_.model);
    tables.gate = in_.gate;
    return RunTables(name, MakeTables(std::move(tables)), trained.build_s);
  }
  const HookFactory hooks = [&](const Batch& batch, std::vector<uint32_t>*) {
    return std::make_unique<ModuleHook>(trained.module, batch, /*training=*/false);
  };
  POINTSMAN_TRY(VariantRun run, Score(name, hooks));
  run.build_s = trained.build_s;
  double bytes = 0;
  for (const Parameter& p : trained.module.Parameters()) bytes += static_cast<double>(p.value.numel() * sizeof(float));
  run.bytes_per_token = bytes / static_cast<double>(in_.reference->tokens());
  return run;
}

const VariantMaker::TrainedLinear& VariantMaker::TrainLinear(const std::string& kind) {
  if (const auto found = linear_.find(kind); found != linear_.end()) return found->second;
  LinearPartOptions options;
  (kind == "bias" ? options.bias_rate : options.router_delta_rate) = kind == "bias" ? kBiasRate : kRouterRate;
  LinearPart module(in_.model->config(), options);
  TrainOptions train;
  train.epochs = BaselineEpochs(in_.size);
  train.seed = in_.seed;
  train.threads = in_.threads;
  const auto started = std::chrono::steady_clock::now();
  const TrainReport report = Train(*in_.model, module, in_.reference->reference, in_.reference->calibration, train);
  const double build_s = SecondsSince(started);
  Say(Formatted((kind + ": calibration %.4f -> %.4f nats").c_str(), report.initial_nll, report.best_nll));
  return linear_.emplace(kind, TrainedLinear{std::move(module), build_s}).first->second;
}

Result<VariantRun> VariantMaker::RunFullFinetune() {
  const std::unique_ptr<MoeModel> clone = in_.runtime->CloneWithTrainableWeights();
  TrainOptions train;
  train.epochs = BaselineEpochs(in_.size);
  train.seed = in_.seed;
  train.threads = in_.threads;
  const auto started = std::chrono::steady_clock::now();
  const TrainReport report =
      TrainWeights(*clone, kFullFinetuneRate, in_.reference->reference, in_.reference->calibration, train);
  const double build_s = SecondsSince(started);
  Say(Formatted("full_finetune: calibration %.4f -> %.4f nats", report.initial_nll, report.best_nll));
  POINTSMAN_TRY(VariantRun run, Score("full_finetune", {}, nullptr, nullptr, clone.get()));
  run.touched.reset();  // every weight is another one: nothing is untouched in a sense worth a number
  run.build_s = build_s;
  double bytes = 0;
  for (const auto& [weight_name, value] : clone->Weights()) bytes += static_cast<double>(value.numel() * sizeof(float));
  run.bytes_per_token = bytes / static_cast<double>(in_.reference->tokens());
  return run;
}

Result<VariantRun> VariantMaker::RunOracle() {
  TokenValueOptions options;
  options.keep_values = false;
  options.threads = in_.threads;
  const TokenValues values = OptimizeTokenValues(*in_.model, in_.test->sequences, options);
  POINTSMAN_CHECK_OK(in_.model->status());
  VariantRun run;
  run.name = "oracle";
  run.test = SumByDocument(*in_.test, values.after);
  return run;
}

// Scored on second halves, beside frozen and memory on the same halves. Warm rewiring starts at the mean retrieved
// change and does not search afterwards.
Result<VariantRun> VariantMaker::RunSecondHalf(const std::string& name) {
  ReroutedScoring options;
  options.threads = in_.threads;
  options.rerouting = in_.rerouting;
  options.recompute = in_.rewire_recompute;
  options.interval = in_.rewire_interval;
  if (name.ends_with("_second_half")) options.rerouting.steps = 0;
  if (name.starts_with("memory")) options.memory.tables = in_.memory;
  if (name == "warm_rewiring") options.warm.tables = in_.memory;
  VariantRun run;
  run.name = name;
  run.baseline = "frozen_second_half";
  const auto score = [&](const ScoredText& text,
                         std::vector<SequenceNll>* sequences) -> Result<std::vector<DocumentNll>> {
    const ScoredText halves{text.documents, AfterContext(text.sequences)};
    POINTSMAN_TRY(const auto scores, ScoreRerouted(*in_.runtime, halves.sequences, options));
    *sequences = SumBySequence(halves.sequences, scores);
    return SumByDocument(halves, scores);
  };
  const auto started = std::chrono::steady_clock::now();
  POINTSMAN_TRY(run.test, score(*in_.test, &run.test_sequences));
  run.seconds_per_token = SecondsSince(started) / static_cast<double>(CountTargets(in_.test->sequences));
  POINTSMAN_TRY(run.unrelated, score(*in_.unrelated, &run.unrelated_sequences));
  return run;
}

CandidateOptions VariantMaker::CandidateDefaults() const {
  CandidateOptions options;
  options.epochs = in_.size.epochs;
  options.still = &in_.still;
  options.seed = in_.seed;
  options.threads = in_.threads;
  return options;
}

Result<VariantRun> VariantMaker::RunTrainedMemory(const std::string& name) {
  if (const auto found = in_.ready.find(name); found != in_.ready.end()) {
    return RunTables(name, found->second, in_.ready_build_s[name]);
  }
  PrototypeOptions prototypes;
  prototypes.count = std::min(PrototypeCount(in_.reference->tokens()), in_.size.max_prototypes);
  POINTSMAN_TRY(Candidate candidate,
                name == "prototypes" ? TrainPrototypes(*in_.model, *in_.reference, prototypes, CandidateDefaults())
                                     : TrainEntries(*in_.model, *in_.reference, EntryOptions{}, CandidateDefaults()));
  Say(Formatted((name + ": calibration %.4f -> %.4f nats (ungated)").c_str(), candidate.training.initial_nll,
                candidate.training.best_nll));
  candidate.tables.gate = in_.gate;
  const double build_s = candidate.build_s;
  return RunTables(name, MakeTables(std::move(candidate.tables)), build_s);
}

Result<VariantRun> VariantMaker::RunKnn(const std::string& name) {
  if (!knn_) {
    POINTSMAN_TRY(Candidate built, BuildKnn(*in_.runtime, *in_.reference, CandidateDefaults()));
    knn_ = std::move(built);
  }
  OwnedTables tables = knn_->tables;
  if (name == "knn+gate") tables.gate = in_.gate;
  return RunTables(name, MakeTables(std::move(tables)), knn_->build_s);
}

Result<VariantRun> VariantMaker::RunC3po(const std::string& name) {
  if (!c3po_) {
    const auto started = std::chrono::steady_clock::now();
    C3poOptions options;
    options.threads = in_.threads;
    POINTSMAN_TRY(c3po_, C3po::Create(*in_.runtime, *in_.reference, options, in_.say));
    c3po_build_s_ = SecondsSince(started);
  }
  const auto gate = name == "c3po+gate" ? std::make_shared<const OwnedGate>(in_.gate) : nullptr;
  POINTSMAN_TRY(VariantRun run, Score(name, c3po_->Hooks(c3po_->setting(), gate)));
  run.build_s = c3po_build_s_;
  run.bytes_per_token = c3po_->bytes() / static_cast<double>(in_.reference->tokens());
  return run;
}

OutputVariants& VariantMaker::Outputs() {
  if (!outputs_) outputs_.emplace(*in_.runtime, in_.reference, in_.memory, in_.gate, in_.threads);
  return *outputs_;
}

Result<VariantRun> VariantMaker::RunOutput(const std::string& name) {
  POINTSMAN_TRY(const OutputVariants::Built built, Outputs().Make(name));
  if (!built.note.empty()) Say(built.note);
  const double routing_s = name == "memory+output" ? in_.ready_build_s["memory"] : 0;
  return RunTables(name, built.tables, routing_s + built.build_s);
}

Result<std::shared_ptr<const RoutingTables>> VariantMaker::Tables(const std::string& name) {
  if (name == "frozen") return std::shared_ptr<const RoutingTables>();
  if (name == "memory") return in_.memory;
  if (!OutputVariants::Has(name)) {
    return Error{ErrorCode::kInvalidArgument, "--variants " + name + ": is not made of tables"};
  }
  POINTSMAN_TRY(const OutputVariants::Built built, Outputs().Make(name));
  return built.tables;
}

Result<VariantRun> VariantMaker::RunControl(const std::string& name) {
  if (name == "shuffled_values") {
    const auto shuffled = ShuffledValues(*in_.memory, in_.seed);
    POINTSMAN_TRY(VariantRun run, RunTables(name, shuffled, 0));
    run.bytes_per_token.reset();
    return run;
  }
  return Score(name, RandomNeighbours(in_.memory, in_.seed));
}

}  // namespace pointsman
