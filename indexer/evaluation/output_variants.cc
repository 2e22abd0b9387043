#include "indexer/evaluation/output_variants.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "indexer/output_memory.h"
#include "memory/copy_tables.h"
#include "memory/stopwatch.h"

namespace pointsman {

bool OutputVariants::Has(const std::string& name) {
  return name == "knn_lm" || name == "knn_lm+gate" || name == "memory+output";
}

Result<OutputVariants::Built> OutputVariants::Make(const std::string& name) {
  if (const auto found = built_.find(name); found != built_.end()) return found->second;
  if (name == "memory+output" && memory_->output.enabled) return Built{memory_, 0, {}};
  POINTSMAN_TRY(Built built, Build(name));
  return built_.emplace(name, std::move(built)).first->second;
}

Result<OutputVariants::Built> OutputVariants::Build(const std::string& name) {
  const bool with_memory = name == "memory+output";
  OwnedTables tables;
  if (with_memory) tables = CopyTables(*memory_);
  if (!with_memory) tables.documents = reference_->names;
  const auto started = std::chrono::steady_clock::now();
  double shared_s = 0;
  if (with_memory) {
    POINTSMAN_TRY(tables.output, MakeOutput(model_, *reference_, tables, {.threads = threads_}));
  } else {
    if (!frozen_) {
      POINTSMAN_TRY(frozen_, MakeOutput(model_, *reference_, tables, {.threads = threads_}));
      frozen_s_ = SecondsSince(started);
    } else {
      shared_s = frozen_s_;
    }
    tables.output = *frozen_;
    if (name == "knn_lm+gate") tables.gate = gate_;
  }
  POINTSMAN_TRY(const OutputTuning tuning, TuneOutput(model_, reference_->calibration, tables, threads_));
  Built built;
  built.build_s = shared_s + SecondsSince(started);
  built.note = fmt::format("{}: {} keys, tau {:g}, lambda {:g}, tau2 {:g}, calibration {:.4f} -> {:.4f} nats", name,
                           tables.output.next_tokens.size(), tables.output.tau, tables.output.lambda,
                           tables.output.tau2, tuning.before, tuning.after);
  built.tables = MakeTables(std::move(tables));
  return built;
}

}  // namespace pointsman
