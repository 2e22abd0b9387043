// Every variant of the verdict, made from equal data: the reference documents train it, the calibration documents stop
// it, and it is scored on the same test and unrelated text as all others (design.md 8).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapt/linear_part.h"
#include "adapt/rerouting.h"
#include "indexer/candidates.h"
#include "indexer/evaluation/c3po.h"
#include "indexer/evaluation/output_variants.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/reference_set.h"
#include "indexer/tasks/task_runner.h"
#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

// What the variants are made of and scored on. Borrowed pointers outlive the VariantMaker.
struct VariantInputs {
  const LossModel* model = nullptr;
  const MoeModel* runtime = nullptr;  // the same model as our own runtime has it; null: VariantNamesInHost() alone
  const ReferenceSet* reference = nullptr;  // needed by trained variants
  const ScoredText* test = nullptr;
  const ScoredText* unrelated = nullptr;
  std::shared_ptr<const RoutingTables> memory;  // with its gate; null: `memory` and the controls are left out
  OwnedGate gate;                               // common to all gated variants
  std::map<std::string, std::shared_ptr<const RoutingTables>> ready;  // kinds that a build has trained already, gated
  std::map<std::string, double> ready_build_s;
  StillRows still;  // unrelated text that trained memories leave alone
  ReroutingOptions rerouting;
  bool rewire_recompute = false;
  uint32_t rewire_interval = 128;
  TrainingSize size;  // of what is trained here
  uint64_t seed = 0;
  int threads = 1;
  TokenScores* keep_frozen = nullptr;  // filled, if given, when `frozen` and `memory` are scored
  TokenScores* keep_memory = nullptr;
  std::function<void(const std::string& line)> say;  // progress lines; may be empty
  const TaskRunner* task = nullptr;  // asked of every variant that is scored, by `runtime`; null: no task
};

// Whether another seed gives another variant: those that are trained with it here. knn, c3po and oracle have no
// randomness.
bool IsSeeded(const std::string& variant_name);

class VariantMaker {
 public:
  explicit VariantMaker(VariantInputs inputs) : in_(std::move(inputs)) {}
  // Builds and scores one variant by name. kInvalidArgument for a name that VariantNames() does not list.
  Result<VariantRun> Run(const std::string& name);
  // What a variant routes and votes with: null for frozen, an error for one that is not made of tables. Made once.
  Result<std::shared_ptr<const RoutingTables>> Tables(const std::string& name);

 private:
  struct TrainedLinear {
    LinearPart module;
    double build_s = 0;
  };
  const TrainedLinear& TrainLinear(const std::string& kind);  // "bias" or "router_finetune", trained once
  Result<VariantRun> RunLinear(const std::string& name);      // with or without "+gate"
  Result<VariantRun> RunFullFinetune();
  Result<VariantRun> RunOracle();
  Result<VariantRun> RunSecondHalf(const std::string& name);
  Result<VariantRun> RunTrainedMemory(const std::string& name);
  Result<VariantRun> RunKnn(const std::string& name);
  Result<VariantRun> RunC3po(const std::string& name);  // with or without "+gate"
  Result<VariantRun> RunOutput(const std::string& name);
  OutputVariants& Outputs();
  Result<VariantRun> RunControl(const std::string& name);
  Result<VariantRun> RunTables(const std::string& name, std::shared_ptr<const RoutingTables> tables, double build_s);
  // `other`: a changed copy that is scored, and asked the task, in place of the model.
  Result<VariantRun> Score(const std::string& name, const HookFactory& hooks,
                           const std::shared_ptr<HookErrors>& errors = nullptr, TokenScores* keep = nullptr,
                           const MoeModel* other = nullptr);
  CandidateOptions CandidateDefaults() const;
  void Say(const std::string& line) const {
    if (in_.say) in_.say(line);
  }

  VariantInputs in_;
  std::map<std::string, TrainedLinear> linear_;
  std::optional<Candidate> knn_;  // shared by knn and knn+gate
  std::unique_ptr<C3po> c3po_;    // shared by c3po and c3po+gate
  double c3po_build_s_ = 0;
  std::optional<OutputVariants> outputs_;
  std::optional<VariantRun> memory_run_;  // shared by memory and its kind
};

}  // namespace pointsman
