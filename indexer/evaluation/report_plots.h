// Plots of the report as inline SVG. Positions are percentages and texts are in CSS pixels, so one SVG fits a phone, a
// screen and paper without a script. Each plot is a figure: a caption, and all its figures as its text alternative.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "indexer/evaluation/statistics.h"

namespace pointsman {

enum class PlotMark : uint8_t { kDot, kRing, kSquare, kDiamond };

struct PlotRow {
  std::string label = {};
  std::optional<double> mean = {};
  std::optional<Interval> interval = {};
  PlotMark mark = PlotMark::kDot;
  bool strong = false;  // the row that the plot is about
};

struct PlotLine {
  double at = 0;
  std::string label = {};
  bool bound = false;  // dashed: what the rule asks for
};

struct IntervalPlot {
  std::string id = {};  // unique in the page
  std::string title = {};
  std::string note = {};
  std::vector<PlotRow> rows = {};
  std::vector<PlotLine> lines = {};
  int digits = 3;
  // 0 = a linear axis. Otherwise linear below this many nats and logarithmic above (asinh).
  double linear_below = 0;
};

// Means with their intervals, one row below the other; rows without a mean are left out.
std::string PlotHtml(const IntervalPlot& plot);

struct ShareRow {
  std::string label = {};
  double share = 0;       // 0..1: the bar's length
  std::string text = {};  // beside it
};

struct SharePlot {
  std::string id = {}, title = {}, note = {};
  std::vector<ShareRow> rows = {};
};

// Bars from 0 to 1.
std::string PlotHtml(const SharePlot& plot);

}  // namespace pointsman
