// The report as one HTML page without external resources.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "indexer/evaluation/report.h"

namespace pointsman {
namespace {

constexpr std::string_view kStyle = R"(
:root{--ink:#1d2430;--soft:#5d6878;--line:#d4dae3;--paper:#fff;--accent:#0b62c4;--adopt:#11703a;--reject:#b3261e;--inconclusive:#8a5a00}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b5;--line:#39424f;--paper:#14181f;--accent:#6cb2ff;--adopt:#56c98a;--reject:#ff8a80;--inconclusive:#f0b94d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1.05rem;margin:2rem 0 .4rem}p{margin:.4rem 0}.soft{color:var(--soft)}
.verdict{border-left:.35rem solid;padding:.4rem 1rem}.adopt{border-color:var(--adopt)}.reject{border-color:var(--reject)}.inconclusive{border-color:var(--inconclusive)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}
tr.memory{font-weight:600;color:var(--accent)}
svg{width:100%;height:auto;min-width:44rem}svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .soft{fill:var(--soft)}
.grid{stroke:var(--line)}.bound{stroke:var(--reject);stroke-dasharray:4 3}.bar{stroke:var(--soft);stroke-width:2}.dot{fill:var(--soft)}
.memory .bar{stroke:var(--accent)}.memory .dot{fill:var(--accent)}.memory text{fill:var(--accent);font-weight:600}
.control .dot{fill:var(--paper);stroke:var(--soft);stroke-width:2}
)";

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

const char* RowClass(const std::string& name) {
  switch (KindOf(name)) {
    case VariantKind::kMemory:
      return "memory";
    case VariantKind::kControl:
      return "control";
    default:
      return "rival";
  }
}

constexpr double kRowHeight = 24, kTop = 44, kNameWidth = 150, kPanelWidth = 380, kGap = 40;

// One panel of dots with intervals. `scale` maps nats to a monotone axis; `ticks` are in nats.
struct Panel {
  std::string title;
  double left = 0;
  double bound = 0;  // the rule's threshold
  std::vector<double> ticks;
  std::function<double(double)> scale;
  double low = 0, high = 0;  // in scaled units

  double X(double nats) const { return left + kPanelWidth * (std::clamp(scale(nats), low, high) - low) / (high - low); }
};

struct Point {
  double mean;
  Interval interval;
};

std::optional<Point> GainPoint(const VariantScore& v) {
  if (!v.ci95) return std::nullopt;
  return Point{v.gain, *v.ci95};
}
std::optional<Point> DamagePoint(const VariantScore& v) {
  if (!v.damage || !v.damage_ci95) return std::nullopt;
  return Point{*v.damage, *v.damage_ci95};
}

using PointOf = std::optional<Point> (*)(const VariantScore&);

void FitRange(Panel* panel, const EvalReport& report, PointOf point_of) {
  std::vector<double> shown = {0, panel->bound};
  for (const VariantScore& v : report.variants) {
    if (const auto p = point_of(v)) {
      for (const double x : {p->mean, p->interval.low, p->interval.high}) {
        if (std::isfinite(x)) shown.push_back(x);
      }
    }
  }
  const auto [low, high] = std::minmax_element(shown.begin(), shown.end());
  panel->low = panel->scale(*low);
  panel->high = panel->scale(*high);
  const double margin = std::max(0.05 * (panel->high - panel->low), 1e-6);
  panel->low -= margin;
  panel->high += margin;
}

// 1, 2 or 5 times a power of ten, about four steps over the range.
std::vector<double> LinearTicks(double low, double high) {
  const double raw = (high - low) / 4;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
  std::vector<double> ticks;
  for (double i = std::ceil(low / step); i * step <= high; ++i) ticks.push_back(i == 0 ? 0 : i * step);
  return ticks;
}

// Those of `wanted` that lie on the axis and whose labels do not touch an earlier one's.
std::vector<double> SpacedTicks(const Panel& panel, const std::vector<double>& wanted) {
  constexpr double kLabelWidth = 42;
  std::vector<double> ticks;
  for (const double tick : wanted) {
    const double scaled = panel.scale(tick);
    const bool free = std::all_of(ticks.begin(), ticks.end(), [&](double other) {
      return std::abs(panel.X(tick) - panel.X(other)) >= kLabelWidth;
    });
    if (scaled >= panel.low && scaled <= panel.high && free) ticks.push_back(tick);
  }
  return ticks;
}

std::string Axis(const Panel& panel, double bottom) {
  std::string svg = fmt::format("<text x=\"{:.1f}\" y=\"14\">{}</text>\n", panel.left, Escape(panel.title));
  for (const double tick : panel.ticks) {
    const double scaled = panel.scale(tick);
    if (scaled < panel.low || scaled > panel.high) continue;
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2:.1f}\"/><text class=\"soft\" "
        "x=\"{0:.1f}\" "
        "y=\"32\" text-anchor=\"middle\">{3:g}</text>\n",
        panel.X(tick), kTop - 6, bottom, tick);
  }
  svg += fmt::format(
      "<line class=\"bound\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2:.1f}\"><title>bound {3:g}"
      "</title></line>\n",
      panel.X(panel.bound), kTop - 6, bottom, panel.bound);
  return svg;
}

std::string Dot(const Panel& panel, const std::optional<Point>& point, double y) {
  if (!point) return "";
  return fmt::format(
      "<g><title>{:+.4f} ({:+.4f} to {:+.4f})</title><line class=\"bar\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" "
      "y2=\"{:.1f}\"/><circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\"/></g>",
      point->mean, point->interval.low, point->interval.high, panel.X(point->interval.low),
      panel.X(point->interval.high), y, y, panel.X(point->mean), y);
}

std::string Plot(const EvalReport& report) {
  Panel gain{"Your text: gain, nats per token (left is better)", kNameWidth, -report.min_gain, {}, {}, 0, 0};
  gain.scale = [](double x) { return x; };
  FitRange(&gain, report, GainPoint);
  gain.ticks = LinearTicks(gain.low, gain.high);
  // Damage spans from 0.001 to 1: linear below the bound, logarithmic above it.
  Panel damage{"Unrelated text: damage (0 is best; logarithmic)",
               kNameWidth + kPanelWidth + kGap,
               report.damage_bound,
               {},
               {},
               0,
               0};
  damage.scale = [unit = std::max(report.damage_bound, 1e-6)](double x) { return std::asinh(x / unit); };
  FitRange(&damage, report, DamagePoint);
  damage.ticks = SpacedTicks(damage, {0, 1, 0.1, 0.01, 0.001, -1, -0.1, -0.01, -0.001});

  const double bottom = kTop + kRowHeight * static_cast<double>(report.variants.size());
  std::string svg = fmt::format(
      "<svg role=\"img\" aria-label=\"gain and damage of each variant with 95% intervals\" "
      "viewBox=\"0 0 {:.0f} {:.0f}\">\n",
      kNameWidth + 2 * kPanelWidth + kGap + 20, bottom + 8);
  svg += Axis(gain, bottom) + Axis(damage, bottom);
  for (size_t i = 0; i < report.variants.size(); ++i) {
    const VariantScore& v = report.variants[i];
    const double y = kTop + kRowHeight * (static_cast<double>(i) + 0.5);
    svg += fmt::format("<g class=\"{}\"><text x=\"0\" y=\"{:.1f}\">{}</text>", RowClass(v.name), y + 4, Escape(v.name));
    svg += Dot(gain, GainPoint(v), y) + Dot(damage, DamagePoint(v), y) + "</g>\n";
  }
  return svg + "</svg>\n";
}

std::string Cell(const std::optional<double>& value, fmt::string_view format) {
  return "<td>" + (value ? fmt::format(fmt::runtime(format), *value) : std::string("-")) + "</td>";
}

std::string Cell(const std::optional<Interval>& interval) {
  if (!interval || !std::isfinite(interval->low) || !std::isfinite(interval->high)) return "<td>-</td>";
  return fmt::format("<td>{:+.4f} to {:+.4f}</td>", interval->low, interval->high);
}

std::optional<double> Times(const std::optional<double>& value, double factor) {
  return value ? std::optional<double>(*value * factor) : std::nullopt;
}

std::string Rows(const EvalReport& report) {
  std::string html;
  for (const VariantScore& v : report.variants) {
    html += fmt::format("<tr class=\"{}\"><td>{}</td>", RowClass(v.name), Escape(v.name));
    html += Cell(v.nll, "{:.4f}") + Cell(v.ci95 ? std::optional<double>(v.gain) : std::nullopt, "{:+.4f}") +
            Cell(v.ci95) + Cell(v.vs_memory) + Cell(v.p, "{:.3f}") + Cell(Times(v.share, 100), "{:.0f}%") +
            Cell(v.damage, "{:+.4f}") + Cell(v.damage_ci95) + Cell(Times(v.untouched_tokens, 100), "{:.1f}%") +
            Cell(Times(v.identical_documents, 100), "{:.1f}%") + Cell(v.build_s, "{:.1f}") +
            Cell(Times(v.seconds_per_token, 1000), "{:.2f}") + Cell(v.bytes_per_token, "{:.0f}") + "</tr>\n";
  }
  return html;
}

}  // namespace

std::string ToHtml(const EvalReport& report, const std::string& title) {
  const std::string decision = DecisionText(report.verdict);
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>" +
      Escape(title) + "</title><style>" + std::string(kStyle) + "</style></head><body>\n<h1>" + Escape(title) +
      "</h1>\n";
  html += "<div class=\"verdict " + decision + "\"><p><strong>" + decision + "</strong>: " + Escape(report.reason) +
          ".</p>";
  if (report.stale) html += "<p>Stale: the memory was written after it was scored.</p>";
  if (!report.dominated_by.empty()) html += "<p>A cheaper variant is better: " + Escape(report.dominated_by) + ".</p>";
  html += "</div>\n";
  html += fmt::format(
      "<p class=\"soft\">Scored on {} documents ({} tokens) of your text and {} documents ({} tokens) of "
      "unrelated text. Dots are means, bars 95% intervals over documents, the dashed lines what the verdict "
      "asks for; hollow dots are controls.</p>\n",
      report.documents, report.tokens, report.unrelated_documents, report.unrelated_tokens);
  html += "<div class=\"scroll\">" + Plot(report) +
          "</div>\n<h2>All figures</h2><div class=\"scroll\"><table><thead><tr>"
          "<th>variant</th><th>loss</th><th>gain</th><th>95% interval</th><th>minus memory, 95%</th><th>p (Holm)</th>"
          "<th>share of full fine-tuning</th><th>damage</th><th>95% interval</th><th>untouched tokens</th>"
          "<th>identical documents</th><th>build, s</th><th>ms per token</th><th>bytes per "
          "token</th></tr></thead><tbody>\n" +
          Rows(report) + "</tbody></table></div>\n";
  if (!report.notes.empty()) html += "<h2>Notes</h2><ul>\n";
  for (const std::string& note : report.notes) html += "<li>" + Escape(note) + "</li>\n";
  if (!report.notes.empty()) html += "</ul>\n";
  return html + "</body></html>\n";
}

}  // namespace pointsman
