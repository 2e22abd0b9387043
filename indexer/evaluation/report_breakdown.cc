// Where the memory helps: kinds of documents, classes of tokens, positions in the window, layers.
#include <fmt/format.h>

#include <algorithm>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_plots.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

constexpr size_t kNameCharacters = 60;

std::string Heading(const std::string& by) {
  if (by == "group") return "By group of the memory";
  if (by == "extension") return "By file extension";
  if (by == "folder") return "By folder";
  if (by == "file") return "By file";
  if (by == "text") return "By the token's text";
  if (by == "repetition") return "New or repeated in its document";
  return "By position in the window";
}

std::string PlotOf(const std::string& id, const std::vector<BreakdownRow>& rows, bool best_first) {
  IntervalPlot plot{.id = id,
                    .title = Heading(rows.front().by) + ": change of the loss, nats per token.",
                    .note = "Left is better; bars are 95\u00A0% intervals over documents."};
  for (const BreakdownRow& row : rows) {
    plot.rows.push_back({row.name, row.gain, row.ci95, PlotMark::kDot, false});
  }
  if (best_first) {
    std::stable_sort(plot.rows.begin(), plot.rows.end(),
                     [](const PlotRow& a, const PlotRow& b) { return *a.mean < *b.mean; });
  }
  plot.lines = {{0, "frozen model", false}};
  return PlotHtml(plot);
}

std::string TableOf(const std::string& id, const std::string& caption, const std::vector<BreakdownRow>& rows) {
  const bool with_gate =
      std::any_of(rows.begin(), rows.end(), [](const BreakdownRow& r) { return r.gate.has_value(); });
  std::vector<std::string> header{"group", "documents", "tokens", "frozen", "memory", "gain", "95\u00A0% interval"};
  if (with_gate) header.emplace_back("gate");
  HtmlTable table(id, caption, header);
  for (const BreakdownRow& row : rows) {
    std::vector<std::string> cells{Clipped(row.name, kNameCharacters),
                                   FormatCount(row.documents),
                                   FormatCount(row.tokens),
                                   FigureText(row.frozen_nll, 4),
                                   FigureText(row.memory_nll, 4),
                                   SignedText(row.gain),
                                   IntervalText(row.ci95)};
    if (with_gate) cells.push_back(FigureText(row.gate, 2));
    table.Add(cells);
  }
  return table.Html();
}

// Runs of rows with the same `by`.
std::vector<std::vector<BreakdownRow>> Split(const std::vector<BreakdownRow>& rows) {
  std::vector<std::vector<BreakdownRow>> runs;
  for (const BreakdownRow& row : rows) {
    if (runs.empty() || runs.back().front().by != row.by) runs.emplace_back();
    runs.back().push_back(row);
  }
  return runs;
}

std::string GroupsHtml(const std::string& id, const std::vector<BreakdownRow>& rows) {
  std::string plots_html, tables_html;
  for (const auto& run : Split(rows)) {
    const std::string& by = run.front().by;  // one of ours, see Heading
    plots_html += PlotOf("plot-" + id + "-" + by, run, /*best_first=*/true);
    tables_html += TableOf("table-" + id + "-" + by, Heading(by) + ", nats per token", run);
  }
  return "<div class=\"plots\">" + plots_html + "</div>\n" + tables_html;
}

std::string PositionsHtml(const std::vector<BreakdownRow>& rows) {
  SharePlot gates{.id = "plot-gate",
                  .title = "How far the gate is open.",
                  .note = "Mean G, 0 to 1: the memory waits until the text resembles what it holds."};
  for (const BreakdownRow& row : rows) {
    if (row.gate) gates.rows.push_back({"token " + row.name, *row.gate, FigureText(row.gate, 2)});
  }
  std::string html = "<div class=\"plots\">" + PlotOf("plot-position", rows, /*best_first=*/false);
  if (!gates.rows.empty()) html += PlotHtml(gates);
  return html + "</div>\n" + TableOf("table-position", "By position in the window, nats per token", rows);
}

std::string LayersHtml(const Breakdown& breakdown) {
  SharePlot changed{.id = "plot-layers",
                    .title = "Tokens whose experts changed, by layer.",
                    .note = "Share of tokens for which at least one expert is another one than without the memory."};
  HtmlTable table("table-layers", "What the memory did at each layer",
                  {"layer", "tokens with other experts", "experts changed, mean", "confidence g, mean"});
  for (const LayerRow& row : breakdown.layers) {
    const std::string name = "layer " + std::to_string(row.layer);
    changed.rows.push_back(
        {name, row.changed_tokens,
         fmt::format("{}, {:.2f} experts", PercentText(row.changed_tokens, 1), row.changed_experts)});
    table.Add(
        {name, PercentText(row.changed_tokens, 1), FigureText(row.changed_experts, 2), FigureText(row.confidence, 2)});
  }
  return "<div class=\"plots\">" + PlotHtml(changed) + "</div>\n" + table.Html() +
         fmt::format(
             "<p class=\"soft\">Measured on {} tokens of the test split. Confidence: over tokens whose gate is "
             "open.</p>\n",
             FormatCount(breakdown.traced_tokens));
}

}  // namespace

std::string BreakdownHtml(const EvalReport& report) {
  if (!report.breakdown) return "";
  const Breakdown& breakdown = *report.breakdown;
  std::string html = "<p>The memory against the frozen model on the same test tokens, in groups.</p>\n";
  if (!breakdown.kinds.empty()) html += "<h3>Kinds of documents</h3>\n" + GroupsHtml("kinds", breakdown.kinds);
  if (!breakdown.classes.empty()) html += "<h3>Kinds of tokens</h3>\n" + GroupsHtml("classes", breakdown.classes);
  if (!breakdown.positions.empty()) html += "<h3>Position in the window</h3>\n" + PositionsHtml(breakdown.positions);
  if (!breakdown.layers.empty()) html += "<h3>Layers</h3>\n" + LayersHtml(breakdown);
  return html;
}

}  // namespace pointsman
