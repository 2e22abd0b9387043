// Asks one variant after another the same items and marks the answers.
//
// What a variant answers depends on the items, the options and the seed, not on the number of threads: texts are
// generated in batches that are made from the items alone. (Whether a test command meets its time limit may depend on
// the machine's load.)
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapt/objective.h"
#include "indexer/evaluation/scorer.h"
#include "indexer/tasks/task_items.h"
#include "indexer/tasks/task_options.h"
#include "indexer/tasks/task_score.h"
#include "memory/document.h"
#include "memory/result.h"
#include "models/generate.h"
#include "models/model.h"

namespace pointsman {

// [metric][item]: 1 where right. Metrics as TaskRunner::metrics() lists them.
using TaskMarks = std::vector<std::vector<uint8_t>>;

class TaskRunner {
 public:
  // The items are the rows behind `documents`, at most options.max_items of them. Errors (kInvalidArgument): no row
  // that is one; options that contradict each other; kUnsupported: no isolation here for a test command.
  static Result<TaskRunner> Make(const MoeModel& model, std::span<const Document> documents, const TaskOptions& options,
                                 uint64_t seed, int threads, std::function<void(const std::string& line)> say);

  TaskKind kind() const { return format_.kind; }
  const std::vector<TaskItem>& items() const { return items_; }
  std::vector<std::string> metrics() const;
  const std::vector<std::string>& notes() const { return notes_; }

  // Whether a variant is asked: controls are not, nor, where texts are generated, what must know a whole text (c3po).
  bool Asks(const std::string& variant) const;
  // Asks `model`, routed by `hooks` (empty: as it is). Each hook serves one batch from its prompt to its last token.
  Result<TaskMarks> Run(const std::string& name, const MoeModel& model, const HookFactory& hooks,
                        const std::shared_ptr<HookErrors>& errors) const;

  // The prompt, as the model reads it, of a member of the batches that Run gives to a hook's factory: what online
  // rerouting may learn from.
  std::span<const int32_t> prompt_of(uint32_t member) const { return prompts_[item_of_[member]]; }

  // One report a metric.
  Result<std::vector<TaskReport>> Report(std::span<const std::string> variants, std::span<const TaskMarks> marks) const;

 private:
  TaskRunner() = default;
  Status CheckOptions() const;
  Status ReadItems(const MoeModel& model, std::span<const Document> documents);
  Result<TaskMarks> RunChoice(const MoeModel& model, const HookFactory& hooks) const;
  // [item][sample]
  Result<std::vector<std::vector<Generation>>> Generations(const std::string& name, const MoeModel& model,
                                                           const HookFactory& hooks) const;
  TaskMarks MarkExact(const std::vector<std::vector<Generation>>& generations) const;
  Result<TaskMarks> MarkCode(const std::string& name, const std::vector<std::vector<Generation>>& generations) const;

  TaskOptions options_;
  TaskFormat format_;
  std::optional<AnswerPattern> pattern_;
  std::vector<TaskItem> items_;
  std::vector<std::vector<int32_t>> prompts_;  // [item]: end-of-text, then the prompt, as in training
  std::vector<uint32_t> item_of_;  // [member of a batch]: choices are members of their own, else members are items
  std::vector<std::string> notes_;
  uint64_t seed_ = 0;
  int threads_ = 1;
  std::function<void(const std::string&)> say_;
};

}  // namespace pointsman
