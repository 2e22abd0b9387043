// The part of the study that has a memory: what it and rerouting do, each alone and together.
#include <utility>

#include "indexer/evaluation/rerouting_scorer.h"
#include "indexer/evaluation/rerouting_study.h"

namespace pointsman {
namespace {

enum Kind : size_t { kFrozen, kRerouting, kMemory, kMemoryRerouting, kMean, kWarm, kKinds };

struct Comparison {
  const char* label;
  Kind kind, against;
};

constexpr Comparison kComparisons[] = {{"rerouting", kRerouting, kFrozen},
                                       {"memory", kMemory, kFrozen},
                                       {"memory + rerouting", kMemoryRerouting, kFrozen},
                                       {"  minus memory", kMemoryRerouting, kMemory},
                                       {"mean retrieved", kMean, kFrozen},
                                       {"warm rerouting", kWarm, kFrozen},
                                       {"  minus rerouting", kWarm, kRerouting}};

ReroutedScoring ScoringOf(Kind kind, const ReroutingOptions& rerouting, const MemoryBinding& memory) {
  ReroutedScoring scoring;
  scoring.rerouting = rerouting;
  scoring.context = StudySetting().context;
  if (kind == kFrozen || kind == kMemory || kind == kMean) scoring.rerouting.steps = 0;
  if (kind == kMemory || kind == kMemoryRerouting) scoring.memory = memory;
  if (kind == kMean || kind == kWarm) scoring.warm = memory;
  return scoring;
}

}  // namespace

Result<std::vector<StudyRow>> RunMemoryStudy(const MoeModel& model, std::span<const StudyText> texts,
                                             const ReroutingOptions& rerouting,
                                             const std::shared_ptr<const RoutingTables>& memory, int threads) {
  MemoryBinding binding;
  binding.tables = memory;
  std::vector<StudyRow> rows;
  for (const Comparison& comparison : kComparisons) {
    rows.emplace_back();
    rows.back().setting.group = "beside a memory";
    rows.back().setting.label = comparison.label;
    rows.back().setting.rerouting = rerouting;
  }
  for (const StudyText& text : texts) {
    const std::vector<Sequence> windows = StudyWindows(text, StudySetting().context);
    std::vector<std::vector<double>> means;
    for (size_t kind = 0; kind < kKinds; ++kind) {
      ReroutedScoring scoring = ScoringOf(static_cast<Kind>(kind), rerouting, binding);
      scoring.threads = threads;
      POINTSMAN_TRY(const auto scores, ScoreRerouted(model, windows, scoring));
      means.push_back(MeansOf(scores, windows));
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].cells.push_back(CompareWindows(means[kComparisons[i].kind], means[kComparisons[i].against]));
    }
  }
  return rows;
}

}  // namespace pointsman
