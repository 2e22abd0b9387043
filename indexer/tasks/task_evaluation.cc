#include "indexer/tasks/task_evaluation.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "indexer/tasks/rerouted_hooks.h"

namespace pointsman {

Status AskRerouted(const TaskRunner& task, const MoeModel& model, std::shared_ptr<const RoutingTables> memory,
                   const ReroutingOptions& options, VariantRun& run) {
  if (run.name != "rewiring" && run.name != "memory+rewiring") return {};
  MemoryBinding binding;
  if (run.name == "memory+rewiring") binding.tables = std::move(memory);
  const auto errors = std::make_shared<HookErrors>();
  const auto prompt_of = [&task](uint32_t member) { return task.prompt_of(member); };
  POINTSMAN_TRY(run.task_marks,
                task.Run(run.name, model, ReroutedHooks(model, prompt_of, binding, options, errors), errors));
  return {};
}

Result<std::vector<TaskReport>> ReportTask(const TaskRunner& task, const MoeModel& model,
                                           const std::shared_ptr<const RoutingTables>& memory,
                                           std::span<const double> strengths, std::span<const VariantRun> runs) {
  std::vector<std::string> names;
  std::vector<TaskMarks> marks;
  for (const VariantRun& run : runs) {
    names.push_back(run.name);
    marks.push_back(run.task_marks);
    if (run.name != "memory") continue;
    for (const double strength : strengths) {
      const auto errors = std::make_shared<HookErrors>();
      names.push_back(fmt::format("memory@{:g}", strength));
      POINTSMAN_TRY(TaskMarks answered,
                    task.Run(names.back(), model, TableHooks(memory, errors, static_cast<float>(strength)), errors));
      marks.push_back(std::move(answered));
    }
  }
  return task.Report(names, marks);
}

}  // namespace pointsman
