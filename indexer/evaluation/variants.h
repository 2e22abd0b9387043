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
#include "indexer/evaluation/scorer.h"
#include "indexer/reference_set.h"
#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

// What the variants are made of and scored on. Borrowed pointers outlive the VariantMaker.
struct VariantInputs {
  const MoeModel* model = nullptr;
  const ReferenceSet* reference = nullptr;  // needed by trained variants
  const ScoredText* test = nullptr;
  const ScoredText* unrelated = nullptr;
  std::shared_ptr<const RoutingTables> memory;  // with its gate; null: `memory` and the controls are left out
  OwnedGate gate;                               // common to all gated variants
  std::map<std::string, std::shared_ptr<const RoutingTables>> ready;  // kinds that a build has trained already, gated
  std::map<std::string, double> ready_build_s;
  ReroutingOptions rerouting;
  bool rewire_recompute = false;
  uint32_t rewire_interval = 128;
  uint64_t seed = 0;
  int threads = 1;
  std::function<void(const std::string& line)> say;  // progress lines; may be empty
};

class VariantMaker {
 public:
  explicit VariantMaker(VariantInputs inputs) : in_(std::move(inputs)) {}
  // Builds and scores one variant by name. kInvalidArgument for a name that VariantNames() does not list.
  Result<VariantRun> Run(const std::string& name);

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
  Result<VariantRun> RunControl(const std::string& name);
  Result<VariantRun> RunTables(const std::string& name, std::shared_ptr<const RoutingTables> tables, double build_s);
  Result<VariantRun> Score(const std::string& name, const MoeModel& model, const HookFactory& hooks,
                           const std::shared_ptr<HookErrors>& errors = nullptr);
  CandidateOptions CandidateDefaults() const;
  void Say(const std::string& line) const {
    if (in_.say) in_.say(line);
  }

  VariantInputs in_;
  std::map<std::string, TrainedLinear> linear_;
  std::optional<Candidate> knn_;          // shared by knn and knn+gate
  std::optional<VariantRun> memory_run_;  // shared by memory and its kind
};

}  // namespace pointsman
