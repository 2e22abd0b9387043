#include "indexer/gate_shares.h"

#include <algorithm>
#include <cstddef>
#include <functional>

#include "indexer/evaluation/statistics.h"

namespace pointsman {
namespace {

constexpr size_t kMostSteps = 400;  // kMostShare in steps

// The part of a group's own tokens that is open when it may open for 0, 1, .. kMostSteps steps of the unrelated text.
std::vector<double> OpenBySteps(const GroupMeans& means) {
  const auto& [unrelated, own] = means;
  std::vector<double> open;
  for (size_t step = 0; step <= kMostSteps; ++step) {
    const double lo = unrelated.empty() ? 0 : SortedQuantile(unrelated, 1 - static_cast<double>(step) * kShareStep);
    const auto above = static_cast<double>(own.end() - std::ranges::upper_bound(own, lo));
    open.push_back(own.empty() ? 0 : above / static_cast<double>(own.size()));
  }
  return open;
}

// What each step brings on the least concave function that is nowhere below `values`: does not rise.
std::vector<double> MajorantSlopes(const std::vector<double>& values) {
  std::vector<size_t> corners;
  const auto slope = [&](size_t from, size_t to) {
    return (values[to] - values[from]) / static_cast<double>(to - from);
  };
  for (size_t i = 0; i < values.size(); ++i) {
    while (corners.size() > 1 && slope(corners[corners.size() - 2], corners.back()) <= slope(corners.back(), i)) {
      corners.pop_back();
    }
    corners.push_back(i);
  }
  std::vector<double> slopes;
  for (size_t c = 1; c < corners.size(); ++c) {
    slopes.insert(slopes.end(), corners[c] - corners[c - 1], slope(corners[c - 1], corners[c]));
  }
  return slopes;
}

}  // namespace

std::vector<double> DivideShare(double share, std::span<const GroupMeans> means) {
  struct Step {
    double opens;
    size_t group;
  };
  std::vector<Step> steps;
  for (size_t group = 0; group < means.size(); ++group) {
    for (const double opens : MajorantSlopes(OpenBySteps(means[group]))) steps.push_back({opens, group});
  }
  std::ranges::stable_sort(steps, std::greater(), &Step::opens);
  constexpr double kRounding = 1e-9;
  const auto affordable = static_cast<size_t>((share + kRounding) / kShareStep);
  steps.resize(std::min(affordable, steps.size()));
  std::vector<double> parts(means.size(), 0.0);
  for (size_t group = 0; group < means.size(); ++group) {
    parts[group] = kShareStep * static_cast<double>(std::ranges::count(steps, group, &Step::group));
  }
  return parts;
}

}  // namespace pointsman
