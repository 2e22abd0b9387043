// The part of the study that looks across windows: what was learned from one window, used in the document's next.
#include <ATen/ATen.h>

#include <utility>

#include "adapt/objective.h"
#include "adapt/parallel.h"
#include "adapt/rerouting.h"
#include "indexer/evaluation/rerouting_study.h"
#include "indexer/write_back.h"

namespace pointsman {
namespace {

struct Pair {
  const Sequence* first;
  const Sequence* next;
};

std::vector<Pair> PairsOf(const StudyText& text) {
  std::vector<Pair> pairs;
  for (size_t i = 0; i + 1 < text.windows.size(); ++i) {
    if (text.windows[i].document == text.windows[i + 1].document)
      pairs.push_back({&text.windows[i], &text.windows[i + 1]});
  }
  return pairs;
}

Batch BatchOf(const Sequence& window) {
  const std::vector<uint32_t> members{0};
  return MakeBatch(std::span(&window, 1), members);
}

// Mean loss of a window under a memory (or none) and vectors (or none).
Result<double> Loss(const MoeModel& model, const Sequence& window, const MemoryBinding& memory,
                    const VectorBatch& vectors) {
  const at::NoGradGuard no_grad;
  const Batch batch = BatchOf(window);
  ConstantMemory constant(memory, 1);
  VectorHook hook(&constant, vectors);
  const at::Tensor losses = TokenLosses(model, batch, &hook, constant.slots());
  POINTSMAN_CHECK_OK(hook.status());
  return losses.sum().item<double>() / batch.weights.sum().item<double>();
}

// The next window's losses: frozen, carried; with a memory also memory, memory + carried, written back.
Result<std::vector<double>> Losses(const MoeModel& model, const Pair& pair, const ReroutingOptions& rerouting,
                                   const MemoryBinding& memory) {
  const Batch text = BatchOf(*pair.first);
  std::vector<double> losses(memory.tables ? 5 : 2);
  POINTSMAN_TRY(losses[0], Loss(model, *pair.next, {}, {}));
  POINTSMAN_TRY(const Rerouted alone, Reroute(model, text, {}, {}, rerouting));
  POINTSMAN_TRY(losses[1], Loss(model, *pair.next, {}, alone.vectors));
  if (!memory.tables) return losses;
  POINTSMAN_TRY(losses[2], Loss(model, *pair.next, memory, {}));
  POINTSMAN_TRY(const Rerouted beside, Reroute(model, text, memory, {}, rerouting));
  POINTSMAN_TRY(losses[3], Loss(model, *pair.next, memory, beside.vectors));
  MemoryBinding written = memory;
  POINTSMAN_TRY(written.tables, WriteBack(model, memory.tables, *pair.first, SessionOf(beside.vectors, 0)));
  POINTSMAN_TRY(losses[4], Loss(model, *pair.next, written, {}));
  return losses;
}

}  // namespace

Result<std::vector<StudyRow>> RunNextWindowStudy(const MoeModel& model, std::span<const StudyText> texts,
                                                 const ReroutingOptions& rerouting,
                                                 const std::shared_ptr<const RoutingTables>& memory, int threads) {
  const std::vector<std::string> labels{"frozen", "carried", "memory", "memory + carried", "written back"};
  MemoryBinding binding;
  binding.tables = memory;
  std::vector<StudyRow> rows;
  for (const StudyText& text : texts) {
    const std::vector<Pair> pairs = PairsOf(text);
    std::vector<Result<std::vector<double>>> losses(pairs.size(), std::vector<double>());
    ParallelFor(static_cast<int>(pairs.size()), threads,
                [&](int i) { losses[i] = Losses(model, pairs[i], rerouting, binding); });
    const size_t kinds = memory ? 5 : 2;
    std::vector<std::vector<double>> by_kind(kinds);
    for (const auto& pair : losses) {
      POINTSMAN_TRY(const std::vector<double> values, pair);
      for (size_t kind = 0; kind < kinds; ++kind) by_kind[kind].push_back(values[kind]);
    }
    rows.resize(kinds - 1 + (memory ? 2 : 0));
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t kind = i + 1 < kinds ? i + 1 : i - 1, against = i + 1 < kinds ? 0 : 2;
      rows[i].setting.group = "next window";
      rows[i].setting.label = (against > 0 ? "minus memory: " : "") + labels[kind];
      rows[i].setting.rerouting = rerouting;
      rows[i].cells.push_back(CompareWindows(by_kind[kind], by_kind[against]));
    }
  }
  return rows;
}

}  // namespace pointsman
