// Beside the loss: answers to tasks, and how generated text goes on.
#include <fmt/format.h>

#include <algorithm>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

std::string TaskHtml(const TaskReport& task, size_t index) {
  std::string caption = fmt::format("{}, {} items", task.metric, FormatCount(task.items));
  if (task.samples > 1) caption += fmt::format(", majority of {} samples each", task.samples);
  if (task.chance > 0) caption += fmt::format("; a guess is right in {}", PercentText(task.chance, 1));
  HtmlTable table(fmt::format("task-{}", index),
                  caption + ". Differences to frozen are paired by item; wins are right where frozen is wrong.",
                  {"variant", "accuracy", "difference", "95\u00A0% interval", "p (McNemar, Holm)", "wins", "losses"});
  for (const TaskScore& v : task.variants) {
    const bool baseline = !v.difference;
    table.Add(
        {v.name, PercentText(v.accuracy, 1), SignedText(v.difference, 3), IntervalText(v.difference_ci95, 3),
         FigureText(v.p, 3), baseline ? "\u2013" : FormatCount(v.wins), baseline ? "\u2013" : FormatCount(v.losses)},
        v.name == "memory" ? "memory" : "");
  }
  return table.Html();
}

std::string GenerationHtml(const std::vector<GenerationScore>& scores) {
  HtmlTable table(
      "generated",
      fmt::format("{} test documents continued from the first half of a window. Match: share of the first {} "
                  "tokens that are the document's own; truth is how the documents go on.",
                  FormatCount(scores.front().prompts), kMatchTokens),
      {"variant", "temperature", "match", "minus frozen, 95\u00A0%", "tokens before the first other",
       "repeated 4-grams", "different 1-, 2-, 3-grams"});
  for (const GenerationScore& s : scores) {
    const std::string temperature = !s.temperature        ? "\u2013"
                                    : *s.temperature == 0 ? "greedy"
                                                          : FigureText(s.temperature, 2);
    table.Add({s.variant, temperature, PercentText(s.match, 1), IntervalText(s.match_vs_frozen, 3),
               FigureText(s.prefix, 2), PercentText(s.repeated_4grams, 1),
               fmt::format("{:.3f} {:.3f} {:.3f}", s.distinct[0], s.distinct[1], s.distinct[2])},
              s.variant == "memory" ? "memory" : "");
  }
  return table.Html();
}

}  // namespace

std::string AnswersHtml(const EvalReport& report) {
  std::string html;
  for (size_t i = 0; i < report.tasks.size(); ++i) html += TaskHtml(report.tasks[i], i);
  if (!report.generation.empty()) html += GenerationHtml(report.generation);
  return html;
}

}  // namespace pointsman
