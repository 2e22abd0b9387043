// pointsman_study: trains many configurations of a memory on one corpus and prints one JSON line each, so that a
// decision record has the command behind its numbers.
//
//   build/release/pointsman_study --model models/reference --corpus DIR --off-domain DIR --max-tokens 30000
//       --configs "base; kind=prototypes,count=2048; kind=entries,neighbours=16"
//
// A configuration is a comma-separated list of key=value; what it leaves out is the default build's. The corpus is
// captured once for each key dimension. Every line has the ungated gain on the calibration split, the gate that the
// builder's own search finds, and under it gain on the test split and damage on the other half of the unrelated text.
// kind=full_finetune and kind=router_finetune are the baselines, at their `rate`; layers=N trains the last N layers
// alone (prototypes), bits=4 rounds the finished values to 4 bits. Prototypes that differ in bits or neighbours alone
// are trained once; so are those that differ in n0, the gate's weight of the prior. With --gate-curve a line also has
// gain and damage along the quantiles of the unrelated text at which the gate's ramp begins, for several weights of the
// prior. With --group NAME=PATH in place of --corpus, several times, one memory is made of equal parts of all groups;
// `gated` is then under the gate that opens for any group, and a line also has `shared`, under one ramp for the pairs
// of all, and each group's gain under both and under a gate of its own pairs alone.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "indexer/calibrate.h"
#include "indexer/candidates.h"
#include "indexer/corpus_group.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/evaluation/scoring.h"
#include "indexer/gate_search.h"
#include "indexer/job.h"
#include "indexer/reference_set.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

struct Config {
  std::string text;
  std::string trained;  // `text` without what only the finished tables depend on
  std::string kind = "prototypes";
  uint32_t key_dim = 64;
  double rate = 1e-3;  // of the baselines
  double still = kStillWeight;
  int32_t layers = 0;  // 0: all
  int32_t bits = 8;    // of the values
  GateOptions gate;
  PrototypeOptions prototypes;
  EntryOptions entries;
  CandidateOptions training;
};

Status Set(Config& config, const std::string& key, const std::string& value) {
  const std::map<std::string, std::function<void(double)>> numbers{
      {"dim", [&](double v) { config.key_dim = static_cast<uint32_t>(v); }},
      {"layers", [&](double v) { config.layers = static_cast<int32_t>(v); }},
      {"bits", [&](double v) { config.bits = static_cast<int32_t>(v); }},
      {"still", [&](double v) { config.still = v; }},
      {"n0", [&](double v) { config.gate.n0 = static_cast<float>(v); }},
      {"rate", [&](double v) { config.rate = v; }},
      {"noise", [&](double v) { config.training.noise = v; }},
      {"batch", [&](double v) { config.training.batch_sequences = static_cast<uint32_t>(v); }},
      {"count", [&](double v) { config.prototypes.count = static_cast<uint32_t>(v); }},
      {"epochs", [&](double v) { config.training.epochs = static_cast<int>(v); }},
      {"patience", [&](double v) { config.training.patience = static_cast<int>(v); }},
      {"seed", [&](double v) { config.training.seed = static_cast<uint64_t>(v); }},
      {"neighbours",
       [&](double v) { config.prototypes.neighbours = config.entries.neighbours = static_cast<int32_t>(v); }},
      {"tau", [&](double v) { config.prototypes.tau = config.entries.tau = v; }},
      {"tau2", [&](double v) { config.prototypes.tau2 = config.entries.tau2 = v; }},
      {"value_rate", [&](double v) { config.prototypes.value_rate = config.entries.value_rate = v; }},
      {"rekeyings", [&](double v) { config.entries.rekeyings = static_cast<int>(v); }},
      {"dropout", [&](double v) { config.prototypes.dropout = v; }},
      {"key_rate", [&](double v) { config.prototypes.key_rate = v; }},
      {"projection_rate", [&](double v) { config.prototypes.projection_rate = v; }},
      {"delta_rate",
       [&](double v) { config.prototypes.linear.router_delta_rate = config.entries.linear.router_delta_rate = v; }},
      {"table_rate",
       [&](double v) { config.prototypes.linear.token_table_rate = config.entries.linear.token_table_rate = v; }},
  };
  if (key == "kind") {
    config.kind = value;
    return {};
  }
  const auto found = numbers.find(key);
  if (found == numbers.end()) {
    std::string known = "kind";
    for (const auto& [name, setter] : numbers) known += ", " + name;
    return Error{ErrorCode::kInvalidArgument, "--configs: " + key + " is not a setting; use some of " + known};
  }
  char* end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0') {
    return Error{ErrorCode::kInvalidArgument, "--configs: " + key + "=" + value + ": give a number"};
  }
  found->second(number);
  return {};
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    std::string part = text.substr(begin, end - begin);
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    if (!part.empty()) parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

Result<std::vector<Config>> ParseConfigs(const std::string& text, const Config& base) {
  std::vector<Config> configs;
  for (const std::string& one : Split(text, ';')) {
    Config config = base;
    config.text = one;
    for (const std::string& item : Split(one, ',')) {
      if (item == "base") continue;
      const size_t equals = item.find('=');
      if (equals == std::string::npos) {
        return Error{ErrorCode::kInvalidArgument, "--configs: " + item + ": write key=value"};
      }
      const std::string key = item.substr(0, equals);
      POINTSMAN_CHECK_OK(Set(config, key, item.substr(equals + 1)));
      if (key != "bits" && key != "neighbours" && key != "n0") config.trained += item + ",";
    }
    if (config.kind == "entries") config.trained = one;  // they are trained through their neighbours
    configs.push_back(std::move(config));
  }
  return configs;
}

// int8 values and their scales, rounded as if they had fewer bits.
void RoundValues(int bits, OwnedTables& tables) {
  const int coarse = (1 << (bits - 1)) - 1;
  for (OwnedLayer& layer : tables.layers) {
    for (int8_t& value : layer.values) {
      const long level = std::lround(value * coarse / 127.0);
      value = static_cast<int8_t>(std::lround(static_cast<double>(level) * 127.0 / coarse));
    }
  }
}

struct StudyFlags {
  bool gate = true;
  bool gate_curve = false;
};

// A part of the corpus.
struct Group {
  std::string name;
  ReferenceSet text;  // sequences only
  ScoredText test;
};

class Study {
 public:
  Study(const CorpusOptions& data, const MoeModel& model, const StudyFlags& flags)
      : data_(data), model_(model), flags_(flags) {}

  Status Run(const std::vector<Config>& configs) {
    POINTSMAN_TRY(corpus_, LoadCorpus(model_, data_));
    for (const CorpusGroup& group : data_.groups) POINTSMAN_CHECK_OK(AddGroup(group.name));
    std::vector<std::string> sources;
    POINTSMAN_TRY(general_, LoadGeneralText(model_, data_, &sources));
    test_ = MakeScoredText(model_, corpus_.documents, SplitRole::kTest);
    learned_ = MakeScoredText(model_, general_.documents, SplitRole::kReference);
    gate_half_ = MakeScoredText(model_, general_.documents, SplitRole::kCalibration);
    damage_half_ = MakeScoredText(model_, general_.documents, SplitRole::kTest);
    still_ = MakeStillRows(model_, learned_.sequences, data_.threads);
    POINTSMAN_TRY(frozen_, Score({}, nullptr, test_));
    for (const Config& config : configs) POINTSMAN_CHECK_OK(RunOne(config));
    return {};
  }

 private:
  ScorerOptions Scoring() const {
    ScorerOptions options;
    options.threads = data_.threads;
    return options;
  }

  Result<VariantRun> Score(const HookFactory& hooks, const std::shared_ptr<HookErrors>& errors,
                           const ScoredText& test) const {
    return ScoreVariant("frozen", model_, hooks, errors, test, damage_half_, Scoring());
  }

  Status AddGroup(const std::string& name) {
    std::vector<Document> documents;
    std::ranges::copy_if(corpus_.documents, std::back_inserter(documents),
                         [&](const Document& d) { return d.tags.front() == name; });
    Group group{name, {}, MakeScoredText(model_, documents, SplitRole::kTest)};
    if (group.test.sequences.empty()) {
      return Error{ErrorCode::kInvalidArgument,
                   "--group " + name + ": no text is left to test on; give more documents"};
    }
    group.text.reference = MakeScoredText(model_, documents, SplitRole::kReference).sequences;
    group.text.calibration = MakeScoredText(model_, documents, SplitRole::kCalibration).sequences;
    groups_.push_back(std::move(group));
    return {};
  }

  Result<const ReferenceSet*> SetOf(uint32_t key_dim) {
    if (const auto found = sets_.find(key_dim); found != sets_.end()) return &found->second;
    ReferenceOptions options;
    options.key_dim = key_dim;
    options.threads = data_.threads;
    options.groups = GroupNames(data_.groups);
    POINTSMAN_TRY(ReferenceSet set, MakeReferenceSet(model_, corpus_.documents, options));
    return &sets_.emplace(key_dim, std::move(set)).first->second;
  }

  static Result<nlohmann::json> Differences(const std::vector<DocumentNll>& run, const std::vector<DocumentNll>& base) {
    POINTSMAN_TRY(const auto differences, PairedDifferences(run, base));
    const Estimate estimate = EstimateDifference(differences, {});
    return nlohmann::json{{"mean", estimate.mean}, {"ci95", {estimate.ci95.low, estimate.ci95.high}}};
  }

  Status RunOne(Config config) {
    POINTSMAN_TRY(const ReferenceSet* set, SetOf(config.key_dim));
    int& epochs = config.training.epochs;
    if (epochs == 0) {  // as many steps as a build has, whatever their size
      const size_t sequences = set->reference.size() * kStepSequences / config.training.batch_sequences;
      epochs = TrainingSizeOf("default", sequences).epochs;
    }
    if (config.kind.ends_with("_finetune")) return RunBaseline(config, *set);
    if (config.prototypes.count == 0) config.prototypes.count = PrototypeCount(set->tokens());
    config.training.threads = data_.threads;
    still_.weight = config.still;
    config.training.still = &still_;
    const auto all_layers = static_cast<int32_t>(model_.config().num_layers);
    if (config.layers > 0) config.prototypes.first_layer = std::max(0, all_layers - config.layers);
    if (!last_ || config.trained != last_trained_) {
      Result<Candidate> made = config.kind == "entries"
                                   ? TrainEntries(model_, *set, config.entries, config.training)
                                   : TrainPrototypes(model_, *set, config.prototypes, config.training);
      if (!made.ok()) return made.error();
      last_ = std::move(made.value());
      last_trained_ = config.trained;
    }
    std::vector<Candidate> candidates{*last_};
    Candidate& candidate = candidates.front();
    if (config.kind == "prototypes") {
      for (OwnedLayer& layer : candidate.tables.layers) {
        const auto rows = static_cast<int32_t>(layer.value_scales.size());
        layer.calibration.k = std::min(config.prototypes.neighbours, rows);
      }
    }
    if (config.bits < 8) RoundValues(config.bits, candidate.tables);
    nlohmann::json line{{"config", config.text},
                        {"kind", config.kind},
                        {"reference_tokens", set->tokens()},
                        {"train_s", candidate.build_s},
                        {"calibration", candidate.training.best_nll - candidate.training.initial_nll},
                        {"best_epoch", candidate.training.best_epoch}};
    POINTSMAN_TRY(line["ungated"], GainAndDamage(candidate.tables));
    if (flags_.gate_curve) {
      POINTSMAN_TRY(line["gate_curve"], GateCurve(*set, candidate.tables));
    }
    if (flags_.gate) {
      GateSearchOptions options;
      options.gate = config.gate;
      options.seed = config.training.seed;
      options.threads = data_.threads;
      std::vector<Candidate> shared = candidates;
      POINTSMAN_CHECK_OK(SearchGates(model_, *set, learned_.sequences, gate_half_, options, candidates));
      POINTSMAN_TRY(line["gated"], GainAndDamage(candidate.tables));
      for (const GateGroup& group : candidate.tables.gate.groups) {
        line["gate"].push_back({{"name", group.name}, {"lo", group.lo}, {"hi", group.hi}});
      }
      if (!groups_.empty()) {
        ReferenceSet one;
        one.reference = set->reference;
        one.calibration = set->calibration;
        POINTSMAN_CHECK_OK(SearchGates(model_, one, learned_.sequences, gate_half_, options, shared));
        POINTSMAN_TRY(line["shared"], GainAndDamage(shared.front().tables));
      }
      for (const Group& group : groups_) {
        POINTSMAN_TRY(line["groups"][group.name], UnderAllGates(group, candidate, shared.front(), options));
      }
    }
    line["bytes_per_token"] =
        static_cast<double>(TableBytes(*MakeTables(candidate.tables))) / static_cast<double>(set->tokens());
    std::puts(line.dump().c_str());
    std::fflush(stdout);
    return {};
  }

  // `any` opens for each group, `shared` has one ramp for the pairs of all.
  Result<nlohmann::json> UnderAllGates(const Group& group, const Candidate& any, const Candidate& shared,
                                       const GateSearchOptions& options) const {
    POINTSMAN_TRY(const VariantRun frozen, Score({}, nullptr, group.test));
    std::vector<Candidate> own{shared};
    own.front().tables.gate = {};
    POINTSMAN_TRY(const nlohmann::json ungated, GainAndDamage(own.front().tables, group.test, frozen));
    POINTSMAN_CHECK_OK(SearchGates(model_, group.text, learned_.sequences, gate_half_, options, own));
    nlohmann::json result{{"ungated", ungated}};
    POINTSMAN_TRY(result["any"], GainAndDamage(any.tables, group.test, frozen));
    POINTSMAN_TRY(result["shared"], GainAndDamage(shared.tables, group.test, frozen));
    POINTSMAN_TRY(result["own"], GainAndDamage(own.front().tables, group.test, frozen));
    return result;
  }

  Result<nlohmann::json> GainAndDamage(const OwnedTables& tables) const {
    return GainAndDamage(tables, test_, frozen_);
  }

  Result<nlohmann::json> GainAndDamage(const OwnedTables& tables, const ScoredText& test,
                                       const VariantRun& frozen) const {
    const auto errors = std::make_shared<HookErrors>();
    POINTSMAN_TRY(const VariantRun run, Score(TableHooks(MakeTables(tables), errors), errors, test));
    nlohmann::json result;
    POINTSMAN_TRY(result["gain"], Differences(run.test, frozen.test));
    POINTSMAN_TRY(result["damage"], Differences(run.unrelated, frozen.unrelated));
    result["untouched"] = static_cast<double>(run.touched->untouched_tokens) / static_cast<double>(run.touched->tokens);
    return result;
  }

  // One point for each weight of the prior and each quantile of the unrelated text at which the ramp begins.
  Result<nlohmann::json> GateCurve(const ReferenceSet& set, OwnedTables tables) const {
    nlohmann::json points = nlohmann::json::array();
    for (const float n0 : {1.0f, 4.0f, 16.0f}) {
      GateOptions options;
      options.n0 = n0;
      POINTSMAN_TRY(tables.gate, MakeGate(set.reference, learned_.sequences, set.gate_groups, options));
      const GateSamples samples = SampleGate(tables.gate, set.calibration, gate_half_.sequences, set.gate_groups);
      for (const double quantile : {0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 1.0}) {
        SetRamp(samples, {quantile, GateQuantiles{}.related}, tables.gate);
        POINTSMAN_TRY(nlohmann::json point, GainAndDamage(tables));
        point["prior_tokens"] = n0;
        point["unrelated_quantile"] = quantile;
        points.push_back(std::move(point));
      }
    }
    return points;
  }

  // Full or router-only fine-tuning, ungated, with the trainer's own loop.
  Status RunBaseline(const Config& config, const ReferenceSet& set) {
    TrainOptions train;
    train.epochs = config.training.epochs;
    train.batch_sequences = config.training.batch_sequences;
    train.seed = config.training.seed;
    train.threads = data_.threads;
    const auto started = std::chrono::steady_clock::now();
    LinearPart router(model_.config(), {.router_delta_rate = config.rate});
    const std::unique_ptr<MoeModel> clone = model_.CloneWithTrainableWeights();
    const bool full = config.kind == "full_finetune";
    const TrainReport report = full ? TrainWeights(*clone, config.rate, set.reference, set.calibration, train)
                                    : Train(model_, router, set.reference, set.calibration, train);
    const double train_s = SecondsSince(started);
    HookFactory hooks;
    if (!full) {
      hooks = [&](const Batch& batch, std::vector<uint32_t>*) {
        return std::make_unique<ModuleHook>(router, batch, /*training=*/false);
      };
    }
    POINTSMAN_TRY(const VariantRun run,
                  ScoreVariant("baseline", full ? *clone : model_, hooks, nullptr, test_, damage_half_, Scoring()));
    nlohmann::json line{{"config", config.text},
                        {"kind", config.kind},
                        {"reference_tokens", set.tokens()},
                        {"train_s", train_s},
                        {"bytes_per_token", 0},
                        {"calibration", report.best_nll - report.initial_nll},
                        {"best_epoch", report.best_epoch}};
    POINTSMAN_TRY(line["ungated"]["gain"], Differences(run.test, frozen_.test));
    POINTSMAN_TRY(line["ungated"]["damage"], Differences(run.unrelated, frozen_.unrelated));
    std::puts(line.dump().c_str());
    std::fflush(stdout);
    return {};
  }

  const CorpusOptions& data_;
  const MoeModel& model_;
  StudyFlags flags_;
  Corpus corpus_, general_;
  std::vector<Group> groups_;
  ScoredText test_, learned_, gate_half_, damage_half_;
  VariantRun frozen_;
  StillRows still_;
  std::optional<Candidate> last_;  // ungated, as trained
  std::string last_trained_;
  std::map<uint32_t, ReferenceSet> sets_;
};

int Main(int argc, char** argv) {
  CorpusOptions data;
  data.max_tokens = 30'000;
  data.max_test_tokens = 30'000;
  std::string model, configs = "base";
  std::vector<std::string> groups;
  bool no_gate = false;
  StudyFlags flags;
  CLI::App app{"Trains configurations of a memory on one corpus; one JSON line each"};
  app.add_option("--model", model, "the model's directory")->required();
  app.add_option("--corpus", data.corpus, "files or folders");
  app.add_option("--group", groups, "NAME=PATH: part of one memory's corpus; several times");
  app.add_option("--off-domain", data.off_domain, "unrelated text");
  app.add_option("--max-tokens", data.max_tokens, "of reference text");
  app.add_option("--max-test-tokens", data.max_test_tokens, "of the test split");
  app.add_option("--max-off-domain-tokens", data.max_off_domain_tokens, "of unrelated text");
  app.add_option("--seed", data.seed, "of the split");
  app.add_option("--threads", data.threads, "of training and scoring");
  app.add_option("--configs", configs, "key=value,...; key=value,...; see the head of this file");
  app.add_flag("--split-by-library", data.split_by_library, "train on some libraries, test on others");
  app.add_flag("--no-gate", no_gate, "ungated figures only");
  app.add_flag("--gate-curve", flags.gate_curve, "gain and damage along the gate's quantiles, too");
  CLI11_PARSE(app, argc, argv);
  flags.gate = !no_gate;
  data.model = model;
  Config base;
  base.prototypes.count = 0;
  base.training.epochs = 0;
  base.training.seed = data.seed;
  const auto run = [&]() -> Status {
    POINTSMAN_TRY(const std::vector<Config> parsed, ParseConfigs(configs, base));
    POINTSMAN_TRY(data.groups, ParseCorpusGroups("--group", groups));
    POINTSMAN_CHECK_OK(CheckCorpus(data));
    POINTSMAN_TRY(const std::unique_ptr<MoeModel> loaded, LoadModel(data));
    return Study(data, *loaded, flags).Run(parsed);
  };
  if (const Status status = run(); !status.ok()) {
    std::fprintf(stderr, "pointsman_study: %s\n", status.error().message.c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  pointsman::TuneRuntime();  // before anything is allocated
  return pointsman::Main(argc, argv);
}
