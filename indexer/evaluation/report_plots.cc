#include "indexer/evaluation/report_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "indexer/evaluation/html.h"

namespace pointsman {
namespace {

constexpr double kTop = 30;        // px: the axis' labels
constexpr double kRowHeight = 38;  // px: a line of text above a track
constexpr double kTrack = 26;      // px: the track below the row's top
constexpr double kLineLabel = 16;  // px: height of a line's label below the rows
constexpr double kEdge = 2;        // %: so that marks at the ends are whole
constexpr size_t kLabelCharacters = 22;
constexpr size_t kWordsCharacters = 60;  // of a label in the text alternative

// From nats to percent of the plot's width.
class Axis {
 public:
  explicit Axis(const IntervalPlot& plot) : linear_below_(plot.linear_below) {
    std::vector<double> shown{0};
    for (const PlotLine& line : plot.lines) shown.push_back(line.at);
    for (const PlotRow& row : plot.rows) {
      if (row.mean) shown.push_back(*row.mean);
      if (IsFinite(row.interval)) shown.insert(shown.end(), {row.interval->low, row.interval->high});
    }
    std::erase_if(shown, [](double x) { return !std::isfinite(x); });
    const auto [low, high] = std::minmax_element(shown.begin(), shown.end());
    low_ = Scaled(*low);
    high_ = Scaled(*high);
    const double margin = std::max(0.04 * (high_ - low_), 1e-6);
    low_ -= margin;
    high_ += margin;
  }

  double Percent(double nats) const {
    const double share = (std::clamp(Scaled(nats), low_, high_) - low_) / (high_ - low_);
    return kEdge + (100 - 2 * kEdge) * share;
  }

  std::vector<double> Ticks() const {
    constexpr double kLabelWidth = 13;  // %: of a label on a phone
    std::vector<double> ticks;
    for (const double tick : linear_below_ > 0 ? Decades() : Steps()) {
      const bool free = std::all_of(ticks.begin(), ticks.end(), [&](double other) {
        return std::abs(Percent(tick) - Percent(other)) >= kLabelWidth;
      });
      if (Scaled(tick) >= low_ && Scaled(tick) <= high_ && free) ticks.push_back(tick);
    }
    return ticks;
  }

 private:
  double Scaled(double nats) const { return linear_below_ > 0 ? std::asinh(nats / linear_below_) : nats; }

  static std::vector<double> Decades() { return {0, 1, 0.1, 0.01, 0.001, -1, -0.1, -0.01, -0.001}; }

  // 1, 2 or 5 times a power of ten, about four steps over the range.
  std::vector<double> Steps() const {
    const double raw = (high_ - low_) / 4;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    const double step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
    std::vector<double> ticks;
    for (double i = std::ceil(low_ / step); i * step <= high_; ++i) ticks.push_back(i == 0 ? 0 : i * step);
    return ticks;
  }

  const double linear_below_;
  double low_ = 0, high_ = 0;
};

// A label is centered on its place unless it would stick out of a plot as narrow as a phone.
std::string Anchor(double percent, size_t characters) {
  constexpr double kHalfCharacter = 1;  // % of such a plot
  const double half = kHalfCharacter * static_cast<double>(characters);
  return percent < half ? "start" : percent > 100 - half ? "end" : "middle";
}

std::string AxisHtml(const Axis& axis, double bottom) {
  std::string html;
  for (const double tick : axis.Ticks()) {
    const double x = axis.Percent(tick);
    std::string label = fmt::format("{:g}", tick);
    if (label.starts_with('-')) label.replace(0, 1, "\xE2\x88\x92");
    html += fmt::format(
        "<line class=\"grid\" x1=\"{0:.2f}%\" x2=\"{0:.2f}%\" y1=\"20\" y2=\"{1:.0f}\"/>"
        "<text class=\"soft\" x=\"{0:.2f}%\" y=\"14\" text-anchor=\"{2}\">{3}</text>\n",
        x, bottom, Anchor(x, label.size()), label);
  }
  return html;
}

// Labels one below the other, because the lines are often close together; over all lines, so that none crosses a text.
std::string LinesHtml(const Axis& axis, const std::vector<PlotLine>& lines, double bottom) {
  std::string lines_html, labels_html;
  for (size_t i = 0; i < lines.size(); ++i) {
    const double x = axis.Percent(lines[i].at);
    const double y = bottom + kLineLabel * static_cast<double>(i) + 4;
    lines_html += fmt::format("<line class=\"{0}\" x1=\"{1:.2f}%\" x2=\"{1:.2f}%\" y1=\"20\" y2=\"{2:.0f}\"/>\n",
                              lines[i].bound ? "bound" : "zero", x, y);
    labels_html += fmt::format("<text class=\"soft\" x=\"{:.2f}%\" y=\"{:.0f}\" text-anchor=\"{}\">{}</text>\n", x,
                               y + 12, Anchor(x, lines[i].label.size()), Escape(lines[i].label));
  }
  return lines_html + labels_html;
}

std::string MarkHtml(PlotMark mark) {
  switch (mark) {
    case PlotMark::kDot:
      return "<circle r=\"4.5\"/>";
    case PlotMark::kRing:
      return "<circle class=\"hollow\" r=\"4.5\"/>";
    case PlotMark::kSquare:
      return "<rect x=\"-4\" y=\"-4\" width=\"8\" height=\"8\"/>";
    case PlotMark::kDiamond:
      return "<path d=\"M0-7L7 0 0 7-7 0Z\"/>";
  }
  return "";
}

std::string ValueText(const PlotRow& row, int digits) {
  std::string text = SignedText(row.mean, digits);
  if (IsFinite(row.interval)) text += " (" + IntervalText(row.interval, digits) + ")";
  return text;
}

std::string RowHtml(const Axis& axis, const PlotRow& row, int digits, double top) {
  const double text_y = top + 15, track_y = top + kTrack;
  std::string html = fmt::format(
      "<g class=\"{0}\"><text x=\"0\" y=\"{1:.0f}\">{2}</text>"
      "<text class=\"value\" x=\"100%\" y=\"{1:.0f}\" text-anchor=\"end\">{3}</text>",
      row.strong ? "row strong" : "row", text_y, EscapeClipped(row.label, kLabelCharacters), ValueText(row, digits));
  html += fmt::format("<line class=\"track\" x1=\"0\" x2=\"100%\" y1=\"{0:.0f}\" y2=\"{0:.0f}\"/>", track_y);
  if (IsFinite(row.interval)) {
    html += fmt::format("<line class=\"bar\" x1=\"{:.2f}%\" x2=\"{:.2f}%\" y1=\"{:.0f}\" y2=\"{:.0f}\"/>",
                        axis.Percent(row.interval->low), axis.Percent(row.interval->high), track_y, track_y);
  }
  html += fmt::format("<svg class=\"mark\" x=\"{:.2f}%\" y=\"{:.0f}\">{}</svg></g>\n", axis.Percent(*row.mean), track_y,
                      MarkHtml(row.mark));
  return html;
}

std::string Figure(const std::string& id, const std::string& title, const std::string& note, const std::string& words,
                   double height, const std::string& svg_html) {
  return fmt::format(
      "<figure><figcaption><strong>{1}</strong> {2}</figcaption>\n<svg role=\"img\" aria-labelledby=\"{0}-title "
      "{0}-desc\" width=\"100%\" height=\"{3:.0f}\"><title id=\"{0}-title\">{1}</title><desc "
      "id=\"{0}-desc\">{4}</desc>\n{5}</svg></figure>\n",
      id, Escape(title), Escape(note), height, Escape(words), svg_html);
}

}  // namespace

std::string PlotHtml(const IntervalPlot& plot) {
  std::vector<PlotRow> rows;
  for (const PlotRow& row : plot.rows) {
    if (row.mean && std::isfinite(*row.mean)) rows.push_back(row);
  }
  const Axis axis(plot);
  const double bottom = kTop + kRowHeight * static_cast<double>(rows.size());
  std::string svg_html = AxisHtml(axis, bottom) + LinesHtml(axis, plot.lines, bottom);
  std::string words;
  for (size_t i = 0; i < rows.size(); ++i) {
    svg_html += RowHtml(axis, rows[i], plot.digits, kTop + kRowHeight * static_cast<double>(i));
    words += (i == 0 ? "" : "; ") + Clipped(rows[i].label, kWordsCharacters) + " " + ValueText(rows[i], plot.digits);
  }
  const double height = bottom + kLineLabel * static_cast<double>(plot.lines.size()) + 6;
  return Figure(plot.id, plot.title, plot.note, words, height, svg_html);
}

std::string PlotHtml(const SharePlot& plot) {
  constexpr double kBarRow = 34, kBarTop = 20, kBarHeight = 8;
  std::string svg_html, words;
  for (size_t i = 0; i < plot.rows.size(); ++i) {
    const ShareRow& row = plot.rows[i];
    const double top = kBarRow * static_cast<double>(i);
    svg_html += fmt::format(
        "<text x=\"0\" y=\"{0:.0f}\">{1}</text><text class=\"value\" x=\"100%\" y=\"{0:.0f}\" "
        "text-anchor=\"end\">{2}</text><rect class=\"rest\" width=\"100%\" height=\"{4}\" y=\"{3:.0f}\"/>"
        "<rect class=\"part\" width=\"{5:.2f}%\" height=\"{4}\" y=\"{3:.0f}\"/>\n",
        top + 14, EscapeClipped(row.label, kLabelCharacters), Escape(row.text), top + kBarTop, kBarHeight,
        100 * std::clamp(row.share, 0.0, 1.0));
    words += (i == 0 ? "" : "; ") + Clipped(row.label, kWordsCharacters) + ": " + row.text;
  }
  return Figure(plot.id, plot.title, plot.note, words, kBarRow * static_cast<double>(plot.rows.size()) + 4, svg_html);
}

}  // namespace pointsman
