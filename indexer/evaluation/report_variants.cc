// Gain, damage and cost of every variant: two plots and three tables.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_plots.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

PlotMark MarkOf(const VariantScore& v) {
  switch (KindOf(v.name)) {
    case VariantKind::kMemory:
      return PlotMark::kDiamond;
    case VariantKind::kControl:
      return PlotMark::kRing;
    case VariantKind::kReferencePoint:
      return PlotMark::kSquare;
    case VariantKind::kRival:
      return PlotMark::kDot;
  }
  return PlotMark::kDot;
}

// Best first. `frozen` and its kind have no interval: they are the zero line.
std::vector<PlotRow> Sorted(std::vector<PlotRow> rows) {
  std::erase_if(rows, [](const PlotRow& row) { return !row.mean || !row.interval; });
  std::stable_sort(rows.begin(), rows.end(), [](const PlotRow& a, const PlotRow& b) { return *a.mean < *b.mean; });
  return rows;
}

PlotRow RowOf(const VariantScore& v, const std::optional<double>& mean, const std::optional<Interval>& interval) {
  return {v.name, mean, interval, MarkOf(v), KindOf(v.name) == VariantKind::kMemory};
}

IntervalPlot GainPlot(const EvalReport& report) {
  IntervalPlot plot{.id = "plot-gain",
                    .title = "Your text: change of the loss, nats per token.",
                    .note = "Left is better. Marks are means, bars 95\u00A0% intervals over documents."};
  for (const VariantScore& v : report.variants) plot.rows.push_back(RowOf(v, v.gain, v.ci95));
  plot.rows = Sorted(std::move(plot.rows));
  plot.lines = {{0, "frozen model", false}, {-report.min_gain, "asked for: left of this", true}};
  return plot;
}

// Damage spans from 0.001 to 1: linear below the bound, logarithmic above it.
IntervalPlot DamagePlot(const EvalReport& report) {
  IntervalPlot plot{.id = "plot-damage",
                    .title = "Unrelated text: change of the loss, nats per token.",
                    .note = "Nearest to 0 is best; the axis is logarithmic beyond the bound."};
  for (const VariantScore& v : report.variants) plot.rows.push_back(RowOf(v, v.damage, v.damage_ci95));
  plot.rows = Sorted(std::move(plot.rows));
  plot.lines = {{0, "frozen model", false}, {report.damage_bound, "allowed: left of this", true}};
  plot.digits = 4;
  plot.linear_below = std::max(report.damage_bound, 1e-6);
  return plot;
}

std::string_view RowClass(const VariantScore& v) {
  return KindOf(v.name) == VariantKind::kMemory ? std::string_view("memory") : std::string_view();
}

std::string PText(const std::optional<double>& p) {
  if (p && *p < 0.001) return "< 0.001";
  return FigureText(p, 3);
}

std::string GainTable(const EvalReport& report) {
  HtmlTable table("table-gain", "Loss on your text, nats per token",
                  {"variant", "loss", "gain", "95\u00A0% interval", "minus memory, 95\u00A0%", "p (Holm)", "share"});
  for (const VariantScore& v : report.variants) {
    const auto gain = v.ci95 ? std::optional<double>(v.gain) : std::nullopt;
    table.Add({v.name, FigureText(v.nll, 4), SignedText(gain), IntervalText(v.ci95), IntervalText(v.vs_memory),
               PText(v.p), PercentText(v.share, 0)},
              RowClass(v));
  }
  return table.Html();
}

std::string DamageTable(const EvalReport& report) {
  HtmlTable table("table-damage", "Loss on unrelated text, nats per token, and what was left alone there",
                  {"variant", "damage", "95\u00A0% interval", "untouched tokens", "identical documents"});
  for (const VariantScore& v : report.variants) {
    const auto damage = v.damage_ci95 ? v.damage : std::nullopt;
    table.Add({v.name, SignedText(damage), IntervalText(v.damage_ci95), PercentText(v.untouched_tokens, 1),
               PercentText(v.identical_documents, 1)},
              RowClass(v));
  }
  return table.Html();
}

std::optional<double> Times(const std::optional<double>& value, double factor) {
  return value ? std::optional<double>(*value * factor) : std::nullopt;
}

std::string BytesText(const std::optional<double>& bytes) {
  if (!bytes || !std::isfinite(*bytes)) return FigureText(std::nullopt, 0);
  return *bytes >= 100 ? FormatCount(static_cast<uint64_t>(std::llround(*bytes))) : FigureText(bytes, 1);
}

}  // namespace

std::string VariantsHtml(const EvalReport& report) {
  std::string html = fmt::format(
      "<p>Every variant read the same {} tokens of {} documents of your text{}. Gain is the loss minus the frozen "
      "model's: below 0 is better.</p>\n",
      FormatCount(report.tokens), FormatCount(report.documents),
      report.unrelated_documents == 0
          ? std::string()
          : fmt::format(", and {} tokens of {} unrelated documents", FormatCount(report.unrelated_tokens),
                        FormatCount(report.unrelated_documents)));
  html +=
      "<p class=\"soft\">Diamond: the memory under test. Dots: its rivals. Rings: controls, the memory with wrong "
      "content, which must not help. Squares: reference points.</p>\n<div class=\"plots\">" +
      PlotHtml(GainPlot(report));
  if (report.unrelated_documents > 0) html += PlotHtml(DamagePlot(report));
  html +=
      "</div>\n" + GainTable(report) +
      "<p class=\"soft\">minus memory: above 0 means that the memory is better. p: of no gain, by a sign-flip test, "
      "adjusted for the number of variants. share: part of full fine-tuning's gain.</p>\n";
  if (report.unrelated_documents == 0) {
    return html + "<p>No unrelated text was given: damage is unknown.</p>\n";
  }
  return html + DamageTable(report);
}

std::string CostHtml(const EvalReport& report) {
  HtmlTable table("table-cost", "What each variant costs",
                  {"variant", "build, s", "ms per token", "bytes per reference token"});
  for (const VariantScore& v : report.variants) {
    table.Add({v.name, FigureText(v.build_s, 1), FigureText(Times(v.seconds_per_token, 1000), 3),
               BytesText(v.bytes_per_token)},
              RowClass(v));
  }
  return table.Html() +
         "<p class=\"soft\">Time to score a token on this machine, all layers; bytes that are stored for a token of "
         "the "
         "reference text, all layers.</p>\n";
}

}  // namespace pointsman
