// Table, JSON and plot of the study of online rerouting.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "indexer/evaluation/rerouting_study.h"

namespace pointsman {
namespace {

constexpr std::array kColors{"#2b6cb0", "#c05621", "#2f855a", "#6b46c1"};
constexpr double kPanelWidth = 440, kPanelHeight = 240, kLeft = 52, kRight = 10, kTop = 30, kBottom = 62;
constexpr int kColumns = 2;

struct Panel {
  std::string title;
  std::vector<const StudyRow*> rows;
};

std::vector<Panel> PanelsOf(const StudyReport& report) {
  std::vector<Panel> panels;
  for (const StudyRow& row : report.rows) {
    if (row.setting.group == "default") continue;
    if (panels.empty() || panels.back().title != row.setting.group) panels.push_back({row.setting.group, {}});
    panels.back().rows.push_back(&row);
  }
  return panels;
}

// Where a figure is drawn: what is beyond the range ends at its edge.
class Scale {
 public:
  Scale(double low, double high) : low_(low), high_(high) {}
  double Y(double value) const {
    const double clamped = std::clamp(value, low_, high_);
    return kTop + (high_ - clamped) / (high_ - low_) * (kPanelHeight - kTop - kBottom);
  }

 private:
  double low_, high_;
};

std::string Axis(const Scale& scale) {
  std::string svg;
  for (const double tick : {-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06}) {
    const double y = scale.Y(tick);
    const char* stroke = tick == 0 ? "#718096" : tick == 0.02 ? "#e53e3e" : "#cbd5e0";
    svg += fmt::format("<line x1='{}' x2='{}' y1='{:.1f}' y2='{:.1f}' stroke='{}'/>", kLeft, kPanelWidth - kRight, y, y,
                       stroke);
    svg += fmt::format("<text x='{}' y='{:.1f}' text-anchor='end'>{:+.2f}</text>", kLeft - 5, y + 3.5, tick);
  }
  return svg;
}

std::string Draw(const Panel& panel, size_t texts) {
  const Scale scale(-0.065, 0.065);
  const double step = (kPanelWidth - kLeft - kRight) / static_cast<double>(panel.rows.size());
  std::string svg = fmt::format("<text x='{}' y='18' font-weight='bold'>{}</text>", kLeft, panel.title) + Axis(scale);
  for (size_t i = 0; i < panel.rows.size(); ++i) {
    const StudyRow& row = *panel.rows[i];
    const double center = kLeft + step * (static_cast<double>(i) + 0.5);
    svg += fmt::format("<text transform='translate({:.1f} {}) rotate(-40)' text-anchor='end'>{}</text>", center + 3,
                       kPanelHeight - kBottom + 14, row.setting.label);
    for (size_t t = 0; t < texts; ++t) {
      const StudyCell& cell = row.cells[t];
      const char* color = kColors[t % kColors.size()];
      const double x =
          center + (static_cast<double>(t) - static_cast<double>(texts - 1) / 2) * std::min(10.0, step / 4);
      svg += fmt::format("<line x1='{0:.1f}' x2='{0:.1f}' y1='{1:.1f}' y2='{2:.1f}' stroke='{3}'/>", x,
                         scale.Y(cell.gain - 2 * cell.standard_error), scale.Y(cell.gain + 2 * cell.standard_error),
                         color);
      svg += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3.5' fill='{}'/>", x, scale.Y(cell.gain), color);
      svg +=
          fmt::format("<path d='M{:.1f} {:.1f}l4 7h-8z' fill='none' stroke='{}'/>", x, scale.Y(cell.worst) - 4, color);
    }
  }
  return svg;
}

}  // namespace

nlohmann::json ToJson(const StudyReport& report) {
  nlohmann::json json = {{"texts", nlohmann::json::array()}, {"rows", nlohmann::json::array()}};
  for (size_t t = 0; t < report.texts.size(); ++t) {
    json["texts"].push_back({{"name", report.texts[t]}, {"windows", report.windows[t]}, {"tokens", report.tokens[t]}});
  }
  for (const StudyRow& row : report.rows) {
    nlohmann::json cells = nlohmann::json::array();
    for (const StudyCell& cell : row.cells) {
      cells.push_back({{"gain", cell.gain},
                       {"se", cell.standard_error},
                       {"worst", cell.worst},
                       {"worse", cell.worse},
                       {"windows", cell.windows}});
    }
    json["rows"].push_back({{"group", row.setting.group},
                            {"label", row.setting.label},
                            {"learn_ms", row.learn_ms},
                            {"cells", std::move(cells)}});
  }
  return json;
}

std::string ToTable(const StudyReport& report) {
  std::string table = fmt::format("{:<20} {:<13} {:>8}", "varied", "value", "learn ms");
  for (size_t t = 0; t < report.texts.size(); ++t) table += fmt::format(" | {:<29}", report.texts[t]);
  table += fmt::format("\n{:<20} {:<13} {:>8}", "", "", "");
  for (size_t t = 0; t < report.texts.size(); ++t)
    table += fmt::format(" | {:>8} {:>6} {:>7} {:>5}", "gain", "se", "worst", "worse");
  table += "\n";
  for (const StudyRow& row : report.rows) {
    table += fmt::format("{:<20} {:<13} {:>8.1f}", row.setting.group, row.setting.label, row.learn_ms);
    for (size_t t = 0; t < row.cells.size(); ++t) {
      const StudyCell& cell = row.cells[t];
      const double share =
          100.0 * static_cast<double>(cell.worse) / static_cast<double>(std::max<uint64_t>(1, cell.windows));
      table +=
          fmt::format(" | {:>+8.4f} {:>6.4f} {:>+7.3f} {:>4.0f}%", cell.gain, cell.standard_error, cell.worst, share);
    }
    table += "\n";
  }
  for (size_t t = 0; t < report.texts.size(); ++t) {
    table += fmt::format("{}: {} windows, {} scored tokens\n", report.texts[t], report.windows[t], report.tokens[t]);
  }
  return table;
}

std::string ToSvg(const StudyReport& report) {
  const std::vector<Panel> panels = PanelsOf(report);
  const double legend = 52;
  const auto rows = (panels.size() + kColumns - 1) / kColumns;
  const double width = kColumns * kPanelWidth, height = legend + static_cast<double>(rows) * kPanelHeight;
  std::string svg = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0} {1}' width='{0}' height='{1}' font-family='sans-serif' "
      "font-size='10' fill='#2d3748'>\n<rect width='100%' height='100%' fill='#ffffff'/>\n",
      width, height);
  double x = kLeft;
  for (size_t t = 0; t < report.texts.size(); ++t) {
    svg += fmt::format("<circle cx='{}' cy='16' r='4' fill='{}'/><text x='{}' y='20'>{}</text>\n", x,
                       kColors[t % kColors.size()], x + 8, report.texts[t]);
    x += 110;
  }
  svg += fmt::format(
      "<text x='{}' y='40'>dot: mean change of the loss against frozen, nats per token, with 2 standard errors; "
      "triangle: "
      "the worst window; red line: +0.02; beyond the scale = at its edge</text>\n",
      kLeft);
  for (size_t i = 0; i < panels.size(); ++i) {
    svg += fmt::format("<g transform='translate({} {})'>", static_cast<double>(i % kColumns) * kPanelWidth,
                       legend + static_cast<double>(i / kColumns) * kPanelHeight);
    svg += Draw(panels[i], report.texts.size()) + "</g>\n";
  }
  return svg + "</svg>\n";
}

}  // namespace pointsman
