// Tables of the variants with an output memory (design.md 8), each made once from the reference documents:
//   knn_lm          the output memory alone, on the frozen router, on any text (no gate)
//   knn_lm+gate     the same under the memory's gate
//   memory+output   the memory and an output memory made with it routing, both under its gate; what is published, if
//                   the memory was built with --output-memory
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "indexer/reference_set.h"
#include "memory/result.h"
#include "memory/routing_tables_owned.h"
#include "models/model.h"

namespace pointsman {

class OutputVariants {
 public:
  struct Built {
    std::shared_ptr<const RoutingTables> tables;
    double build_s = 0;  // of the output memory alone
    std::string note;    // a progress line
  };

  // All borrowed or shared. `reference` may be null if only a published output memory is asked for; `memory` may be
  // null if memory+output is not.
  OutputVariants(const MoeModel& model, const ReferenceSet* reference, std::shared_ptr<const RoutingTables> memory,
                 OwnedGate gate, int threads)
      : model_(model), reference_(reference), memory_(std::move(memory)), gate_(std::move(gate)), threads_(threads) {}

  static bool Has(const std::string& name);
  // REQUIRES: Has(name).
  Result<Built> Make(const std::string& name);

 private:
  Result<Built> Build(const std::string& name);

  const MoeModel& model_;
  const ReferenceSet* reference_;
  std::shared_ptr<const RoutingTables> memory_;
  OwnedGate gate_;
  int threads_;
  std::optional<OwnedOutput> frozen_;  // keys of the frozen model, shared by knn_lm and knn_lm+gate
  double frozen_s_ = 0;
  std::map<std::string, Built> built_;
};

}  // namespace pointsman
