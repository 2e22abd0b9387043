#include "indexer/tasks/task_score.h"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <numeric>

namespace pointsman {
namespace {

constexpr double kZ = 1.959963984540054;  // the normal distribution's 97.5 % quantile

uint64_t Count(const std::vector<uint8_t>& correct) {
  return std::accumulate(correct.begin(), correct.end(), uint64_t{0});
}

}  // namespace

Interval WilsonInterval(uint64_t hits, uint64_t trials) {
  if (trials == 0) return {0, 1};
  const auto n = static_cast<double>(trials);
  const double share = static_cast<double>(hits) / n;
  const double center = (share + kZ * kZ / (2 * n)) / (1 + kZ * kZ / n);
  const double radius = kZ / (1 + kZ * kZ / n) * std::sqrt(share * (1 - share) / n + kZ * kZ / (4 * n * n));
  return {std::max(0.0, center - radius), std::min(1.0, center + radius)};
}

Interval PairedShareInterval(uint64_t wins, uint64_t losses, uint64_t trials) {
  const double n = static_cast<double>(trials) + 2;
  const double won = (static_cast<double>(wins) + 1) / n, lost = (static_cast<double>(losses) + 1) / n;
  const double difference = won - lost;
  const double radius = kZ * std::sqrt((won + lost - difference * difference) / n);
  return {std::max(-1.0, difference - radius), std::min(1.0, difference + radius)};
}

double McNemarP(uint64_t wins, uint64_t losses) {
  if (wins + losses == 0) return 1;
  const boost::math::binomial fair(static_cast<double>(wins + losses), 0.5);
  return std::min(1.0, 2 * boost::math::cdf(fair, static_cast<double>(std::min(wins, losses))));
}

Result<TaskReport> ScoreTask(std::span<const TaskAnswers> answers) {
  const auto frozen = std::ranges::find(answers, "frozen", &TaskAnswers::variant);
  if (frozen == answers.end()) {
    return Error{ErrorCode::kInvalidArgument, "task: no variant named frozen to compare with; add it to --variants"};
  }
  TaskReport report;
  report.items = frozen->correct.size();
  std::vector<double> raw;
  for (const TaskAnswers& variant : answers) {
    if (variant.correct.size() != report.items) {
      return Error{ErrorCode::kInvalidArgument, "task: variant " + variant.variant +
                                                    " was not asked what frozen was asked; score them again together"};
    }
    TaskScore score;
    score.name = variant.variant;
    const uint64_t hits = Count(variant.correct);
    score.accuracy = report.items == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(report.items);
    score.ci95 = WilsonInterval(hits, report.items);
    if (&variant != &*frozen) {
      for (size_t i = 0; i < report.items; ++i) {
        score.wins += variant.correct[i] > frozen->correct[i];
        score.losses += variant.correct[i] < frozen->correct[i];
      }
      const auto n = static_cast<double>(std::max<uint64_t>(1, report.items));
      score.difference = (static_cast<double>(score.wins) - static_cast<double>(score.losses)) / n;
      score.difference_ci95 = PairedShareInterval(score.wins, score.losses, report.items);
      raw.push_back(McNemarP(score.wins, score.losses));
    }
    report.variants.push_back(std::move(score));
  }
  const std::vector<double> adjusted = HolmAdjust(raw);
  size_t next = 0;
  for (TaskScore& score : report.variants) {
    if (score.difference) score.p = adjusted[next++];
  }
  return report;
}

}  // namespace pointsman
