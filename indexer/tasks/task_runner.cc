#include "indexer/tasks/task_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <numeric>
#include <utility>

#include "adapt/parallel.h"
#include "indexer/corpus.h"
#include "indexer/evaluation/report.h"
#include "indexer/progress.h"
#include "memory/stopwatch.h"
#include "models/generate_batch.h"

namespace pointsman {
namespace {

constexpr size_t kBatchRows = 16;      // texts generated together; docs/decisions/012
constexpr size_t kLeastNewTokens = 8;  // an item whose prompt leaves less room is left out

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

// The prompt as a sequence, for the batch that a hook's factory sees.
Sequence PromptSequence(std::span<const int32_t> prompt) {
  Sequence sequence;
  sequence.inputs.assign(prompt.begin(), prompt.end());
  sequence.targets.assign(prompt.begin() + 1, prompt.end());
  sequence.targets.push_back(0);
  sequence.mask.assign(prompt.size(), 1);
  sequence.mask.back() = 0;  // what follows is not known
  return sequence;
}

// Prompt and choice with only the choice counted; a prompt too long for the context loses its oldest tokens.
Sequence ChoiceSequence(std::span<const int32_t> prompt, std::span<const int32_t> choice, size_t context) {
  const size_t room = context + 1 - choice.size();
  std::vector<int32_t> tokens(prompt.begin(), prompt.begin() + 1);
  const std::span<const int32_t> rest = prompt.subspan(1);
  const std::span<const int32_t> kept = rest.last(std::min(rest.size(), room - 1));
  tokens.insert(tokens.end(), kept.begin(), kept.end());
  const size_t first = tokens.size();
  tokens.insert(tokens.end(), choice.begin(), choice.end());
  Sequence sequence;
  sequence.inputs.assign(tokens.begin(), tokens.end() - 1);
  sequence.targets.assign(tokens.begin() + 1, tokens.end());
  sequence.mask.assign(sequence.inputs.size(), 0);
  std::fill(sequence.mask.begin() + static_cast<int64_t>(first) - 1, sequence.mask.end(), uint8_t{1});
  return sequence;
}

std::vector<SandboxFile> ProgramFiles(const TaskItem& item, const std::string& completion) {
  return {{"program", item.prompt + completion + "\n" + item.test},
          {"prompt", item.prompt},
          {"completion", completion},
          {"test", item.test}};
}

}  // namespace

Status TaskRunner::CheckOptions() const {
  if (options_.samples > 1 && format_.kind != TaskKind::kExact) {
    return Invalid(
        fmt::format("--self-consistency {}: only answers found by a pattern can be voted on; this task is {}",
                    options_.samples, TaskKindText(format_.kind)));
  }
  if (options_.samples > 1 && options_.temperature == 0) {
    return Invalid(fmt::format(
        "--self-consistency {}: at temperature 0 all samples are the same; add --temperature 0.7", options_.samples));
  }
  if (format_.kind == TaskKind::kCode && options_.test_command.empty()) {
    return Invalid(
        "--task code: nothing says whether a completion is right; add --test-command CMD, which is run for "
        "each completion");
  }
  if (format_.kind != TaskKind::kCode && !options_.test_command.empty()) {
    return Invalid(
        fmt::format("--test-command: this task is {} and runs nothing; add --task code", TaskKindText(format_.kind)));
  }
  return {};
}

Status TaskRunner::ReadItems(const MoeModel& model, std::span<const Document> documents) {
  POINTSMAN_TRY(const std::vector<TaskRow> rows, ReadTaskRows(documents));
  if (rows.empty()) {
    return Invalid("--task " + options_.kind +
                   ": the test documents are not rows of a .jsonl file; give one with --test-corpus");
  }
  POINTSMAN_TRY(format_.fields, ParseTaskFields(options_.fields));
  if (options_.kind == "auto") {
    POINTSMAN_TRY(format_, DetectTask(rows.front().text, format_.fields, !options_.test_command.empty()));
  } else {
    format_.kind = options_.kind == "choice" ? TaskKind::kChoice
                   : options_.kind == "code" ? TaskKind::kCode
                                             : TaskKind::kExact;
  }
  POINTSMAN_CHECK_OK(CheckOptions());
  const std::string regex = options_.answer_pattern.empty() ? kGsm8kPattern : options_.answer_pattern;
  POINTSMAN_TRY(pattern_, AnswerPattern::Compile(regex));
  const auto context = static_cast<size_t>(model.config().max_positions);
  size_t malformed = 0, too_long = 0;
  std::string problem;
  for (const TaskRow& row : rows) {
    if (items_.size() == options_.max_items) break;
    auto item = ParseTaskRow(row.text, format_, *pattern_);
    if (!item.ok()) {
      if (malformed++ == 0) problem = row.source + ": " + item.error().message;
      continue;
    }
    std::vector<int32_t> prompt{SequenceOptionsOf(model.config()).end_of_text};
    const std::vector<int32_t> text = model.tokenizer().Encode(item.value().prompt);
    prompt.insert(prompt.end(), text.begin(), text.end());
    bool fits = prompt.size() + kLeastNewTokens <= context;
    if (format_.kind == TaskKind::kChoice) {
      fits = std::ranges::all_of(item.value().choices, [&](const std::string& choice) {
        return model.tokenizer().Encode(choice).size() < context;
      });
    }
    too_long += !fits;
    if (!fits) continue;
    item.value().source = row.source;
    item_of_.insert(item_of_.end(), std::max<size_t>(1, item.value().choices.size()),
                    static_cast<uint32_t>(items_.size()));
    items_.push_back(std::move(item).value());
    prompts_.push_back(std::move(prompt));
  }
  if (items_.empty()) {
    const std::string why = malformed > 0 ? problem : "every prompt is longer than the model's context";
    return Invalid(fmt::format("--task {}: no test row is such an item ({}); see --task-fields", options_.kind, why));
  }
  if (malformed > 0) {
    notes_.push_back(
        fmt::format("task: {} test rows are no items of it and were left out (the first, {})", malformed, problem));
  }
  if (too_long > 0) {
    notes_.push_back(fmt::format("task: {} items do not fit into the model's context of {} tokens and were left out",
                                 too_long, context));
  }
  return {};
}

Result<TaskRunner> TaskRunner::Make(const MoeModel& model, std::span<const Document> documents,
                                    const TaskOptions& options, uint64_t seed, int threads,
                                    std::function<void(const std::string& line)> say) {
  TaskRunner runner;
  runner.options_ = options;
  runner.seed_ = seed;
  runner.threads_ = threads;
  runner.say_ = say ? std::move(say) : [](const std::string&) {};
  POINTSMAN_CHECK_OK(runner.ReadItems(model, documents));
  if (runner.format_.kind == TaskKind::kCode && options.isolated) {
    // Better now than after minutes of training.
    const auto tried = RunSandboxed("true", {}, options.limits, /*isolated=*/true);
    if (!tried.ok()) {
      return Error{tried.error().code, tried.error().message +
                                           "; allow user namespaces, or add --test-unsafe to run what the model wrote "
                                           "with your own rights"};
    }
  }
  return runner;
}

std::vector<std::string> TaskRunner::metrics() const {
  switch (format_.kind) {
    case TaskKind::kExact:
      return {"exact match"};
    case TaskKind::kChoice:
      return {"likeliest choice per byte", "likeliest choice"};
    case TaskKind::kCode:
      return {"pass@1"};
  }
  return {};
}

bool TaskRunner::Asks(const std::string& variant) const {
  if (KindOf(variant) == VariantKind::kControl) return false;
  return format_.kind == TaskKind::kChoice || !variant.starts_with("c3po");
}

Result<TaskMarks> TaskRunner::RunChoice(const MoeModel& model, const HookFactory& hooks) const {
  std::vector<Sequence> sequences;
  const auto context = static_cast<size_t>(model.config().max_positions);
  for (size_t i = 0; i < items_.size(); ++i) {
    for (const std::string& choice : items_[i].choices) {
      sequences.push_back(ChoiceSequence(prompts_[i], model.tokenizer().Encode(choice), context));
    }
  }
  const std::vector<SequenceScore> scores = ScoreSequences(model, sequences, hooks, {.threads = threads_});
  TaskMarks marks(2, std::vector<uint8_t>(items_.size()));
  size_t next = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    size_t best[2] = {0, 0};
    double least[2] = {1e300, 1e300};
    for (size_t c = 0; c < items_[i].choices.size(); ++c, ++next) {
      const double nll = std::accumulate(scores[next].nll.begin(), scores[next].nll.end(), 0.0);
      const double values[2] = {nll / static_cast<double>(items_[i].choices[c].size()), nll};
      for (int m = 0; m < 2; ++m) {
        if (values[m] < least[m]) {
          least[m] = values[m];
          best[m] = c;
        }
      }
    }
    for (int m = 0; m < 2; ++m) marks[m][i] = best[m] == items_[i].gold;
  }
  return marks;
}

Result<std::vector<std::vector<Generation>>> TaskRunner::Generations(const std::string& name, const MoeModel& model,
                                                                     const HookFactory& hooks) const {
  std::vector<Sequence> prompts;
  for (const auto& prompt : prompts_) prompts.push_back(PromptSequence(prompt));
  // Rows are (item, sample) pairs, like lengths together.
  std::vector<uint32_t> order(items_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) { return prompts_[a].size() > prompts_[b].size(); });
  std::vector<std::pair<uint32_t, uint64_t>> rows;
  for (uint32_t item : order) {
    for (uint64_t sample = 0; sample < options_.samples; ++sample) rows.emplace_back(item, sample);
  }
  std::vector<std::vector<Generation>> results(items_.size(), std::vector<Generation>(options_.samples));
  const auto batches = static_cast<int>((rows.size() + kBatchRows - 1) / kBatchRows);
  std::vector<Status> statuses(batches);
  const auto started = std::chrono::steady_clock::now();
  ParallelFor(batches, threads_, [&](int b) {
    const auto part = std::span(rows).subspan(b * kBatchRows, std::min(kBatchRows, rows.size() - b * kBatchRows));
    std::vector<uint32_t> members;
    std::vector<BatchPrompt> requests;
    for (const auto& [item, sample] : part) {
      members.push_back(item);
      requests.push_back({prompts_[item], seed_ + sample, 0});
    }
    const Batch batch = MakeBatch(prompts, members);
    std::vector<uint32_t> slots;
    const std::unique_ptr<RoutingHook> hook = hooks ? hooks(batch, &slots) : nullptr;
    for (size_t i = 0; i < slots.size(); ++i) requests[i].slot = slots[i];
    GenerateOptions generate;
    generate.max_tokens = options_.max_tokens;
    generate.temperature = options_.temperature;
    generate.top_p = options_.top_p;
    generate.stop = options_.stop;
    generate.hook = hook.get();
    const auto enough = [&](std::string_view text) {
      if (format_.kind != TaskKind::kExact) return false;
      const auto found = pattern_->Find(text);
      return found && found->final;
    };
    auto generated = GenerateBatch(model, requests, generate, enough);
    if (!generated.ok()) {
      statuses[b] = generated.error();
      return;
    }
    for (size_t i = 0; i < part.size(); ++i) {
      results[part[i].first][part[i].second] = std::move(generated.value()[i]);
    }
  });
  for (const Status& status : statuses) POINTSMAN_CHECK_OK(status);
  uint64_t tokens = 0;
  for (const auto& samples : results) {
    for (const Generation& sample : samples) tokens += sample.tokens.size();
  }
  const double seconds = SecondsSince(started);
  say_(fmt::format("{}: {} new tokens for {} texts in {:.1f} s, {:.0f} a second", name, FormatCount(tokens),
                   rows.size(), seconds, static_cast<double>(tokens) / seconds));
  return results;
}

TaskMarks TaskRunner::MarkExact(const std::vector<std::vector<Generation>>& generations) const {
  TaskMarks marks(1, std::vector<uint8_t>(items_.size()));
  for (size_t i = 0; i < items_.size(); ++i) {
    std::vector<std::optional<std::string>> answers;
    for (const Generation& sample : generations[i]) {
      const auto found = pattern_->Find(sample.text);
      answers.push_back(found ? std::optional(found->text) : std::nullopt);
    }
    const std::vector<Vote> votes = CountVotes(answers);
    marks[0][i] = !votes.empty() && votes.front().answer == items_[i].answer;
  }
  return marks;
}

Result<TaskMarks> TaskRunner::MarkCode(const std::string& name,
                                       const std::vector<std::vector<Generation>>& generations) const {
  TaskMarks marks(1, std::vector<uint8_t>(items_.size()));
  std::vector<Status> statuses(items_.size());
  std::vector<SandboxOutcome> outcomes(items_.size());
  ParallelFor(static_cast<int>(items_.size()), threads_, [&](int i) {
    auto outcome = RunSandboxed(options_.test_command, ProgramFiles(items_[i], generations[i].front().text),
                                options_.limits, options_.isolated);
    if (!outcome.ok()) {
      statuses[i] = outcome.error();
      return;
    }
    marks[0][i] = outcome.value().passed();
    outcomes[i] = std::move(outcome).value();
  });
  for (const Status& status : statuses) POINTSMAN_CHECK_OK(status);
  size_t passed = 0, failed = 0, killed = 0, timed_out = 0;
  const SandboxOutcome* example = nullptr;
  for (const SandboxOutcome& outcome : outcomes) {
    passed += outcome.passed();
    failed += outcome.end == SandboxEnd::kExited && !outcome.passed();
    killed += outcome.end == SandboxEnd::kSignaled;
    timed_out += outcome.end == SandboxEnd::kTimedOut;
    if (!outcome.passed() && example == nullptr) example = &outcome;
  }
  std::string line =
      fmt::format("{}: {} passed, {} failed, {} killed, {} out of time", name, passed, failed, killed, timed_out);
  if (example != nullptr) {
    std::string last = example->output;
    while (!last.empty() && last.back() == '\n') last.pop_back();
    last.erase(0, last.rfind('\n') + 1);  // npos + 1 = 0
    line += fmt::format("; the first that did not pass said: {}", last.empty() ? "nothing" : last.substr(0, 120));
  }
  say_(line);
  return marks;
}

Result<TaskMarks> TaskRunner::Run(const std::string& name, const MoeModel& model, const HookFactory& hooks,
                                  const std::shared_ptr<HookErrors>& errors) const {
  Result<TaskMarks> marks = TaskMarks{};
  if (format_.kind == TaskKind::kChoice) {
    marks = RunChoice(model, hooks);
  } else {
    POINTSMAN_TRY(const auto generations, Generations(name, model, hooks));
    marks = format_.kind == TaskKind::kExact ? MarkExact(generations) : MarkCode(name, generations);
  }
  if (errors) POINTSMAN_CHECK_OK(errors->first());
  return marks;
}

Result<std::vector<TaskReport>> TaskRunner::Report(std::span<const std::string> variants,
                                                   std::span<const TaskMarks> marks) const {
  double chance = 0;
  for (const TaskItem& item : items_) {
    if (!item.choices.empty()) chance += 1.0 / static_cast<double>(item.choices.size() * items_.size());
  }
  std::vector<TaskReport> reports;
  for (size_t m = 0; m < metrics().size(); ++m) {
    std::vector<TaskAnswers> answers;
    for (size_t v = 0; v < variants.size(); ++v) {
      if (!marks[v].empty()) answers.push_back({variants[v], marks[v][m]});
    }
    POINTSMAN_TRY(TaskReport report, ScoreTask(answers));
    report.kind = TaskKindText(format_.kind);
    report.metric = metrics()[m];
    report.samples = options_.samples;
    report.chance = chance;
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace pointsman
