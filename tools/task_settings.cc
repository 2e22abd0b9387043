#include "tools/task_settings.h"

#include <charconv>
#include <string>

#include "indexer/tasks/answers.h"
#include "indexer/tasks/task_items.h"

namespace pointsman {
namespace {

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

Result<std::vector<double>> StrengthsOf(const Settings& settings) {
  std::vector<double> strengths;
  for (const std::string& text : settings.Texts("task-strengths")) {
    double strength = -1;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), strength);
    if (failure != std::errc() || end != text.data() + text.size() || !(strength >= 0 && strength <= 1)) {
      return Invalid("--task-strengths " + text + ": use numbers from 0 to 1, separated by commas");
    }
    strengths.push_back(strength);
  }
  if (!strengths.empty() && !settings.Has("memory")) {
    return Invalid("--task-strengths: there is nothing to scale without a memory; add --memory");
  }
  return strengths;
}

}  // namespace

Result<TaskOptions> TaskOptionsOf(const Settings& settings) {
  TaskOptions options;
  options.kind = settings.Text("task");
  options.fields = settings.Texts("task-fields");
  options.answer_pattern = settings.Text("answer-pattern");
  options.max_items = static_cast<uint64_t>(settings.Integer("task-items"));
  options.max_tokens = settings.Integer("task-tokens");
  options.temperature = settings.Real("temperature");
  options.top_p = settings.Real("top-p");
  options.stop = settings.Texts("stop");
  options.samples = static_cast<uint64_t>(settings.Integer("self-consistency"));
  options.test_command = settings.Text("test-command");
  options.limits.seconds = settings.Real("test-timeout");
  options.limits.memory_bytes = static_cast<uint64_t>(settings.Integer("test-memory")) << 20;
  options.isolated = !settings.Flag("test-unsafe");
  POINTSMAN_TRY(options.strengths, StrengthsOf(settings));
  if (options.kind == "none") {
    for (const char* name : {"task-fields", "answer-pattern", "task-strengths", "test-command"}) {
      if (settings.Has(name)) return Invalid(std::string("--") + name + ": no task is asked for; add --task auto");
    }
    if (options.samples > 1) return Invalid("--self-consistency: no task is asked for; add --task exact");
  }
  // Now rather than after the corpus was read.
  POINTSMAN_TRY(const auto fields, ParseTaskFields(options.fields));
  if (!options.answer_pattern.empty()) {
    POINTSMAN_TRY(const auto pattern, AnswerPattern::Compile(options.answer_pattern));
  }
  return options;
}

}  // namespace pointsman
