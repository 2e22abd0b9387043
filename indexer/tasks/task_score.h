// Task metrics beside the loss: accuracy of every variant on the same items, compared with frozen item by item.
// Values and statistics only; needs no model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "indexer/evaluation/statistics.h"
#include "memory/result.h"

namespace pointsman {

// What one variant did on the items, in their order.
struct TaskAnswers {
  std::string variant;
  std::vector<uint8_t> correct;  // [items]
};

struct TaskScore {
  std::string name;
  double accuracy = 0;                      // 0..1
  Interval ci95;                            // of the accuracy: Wilson's score interval
  std::optional<double> difference;         // accuracy minus frozen's, > 0 is better; absent for frozen
  std::optional<Interval> difference_ci95;  // paired by item: Bonett and Price's adjusted Wald interval
  std::optional<double> p;                  // exact McNemar test, Holm-adjusted over the variants of the report
  uint64_t wins = 0;                        // items that this variant has right and frozen wrong
  uint64_t losses = 0;                      // and the other way round
};

struct TaskReport {
  std::string kind;    // "exact", "choice", "code"
  std::string metric;  // "exact match", "likeliest choice", "likeliest choice per byte", "pass@1"
  uint64_t items = 0;
  uint64_t samples = 1;  // of which the majority's answer counts (self-consistency)
  double chance = 0;     // accuracy of a uniform guess; 0 where there is none
  std::vector<TaskScore> variants;
};

// kInvalidArgument: no answers of "frozen", or answers to another number of items.
Result<TaskReport> ScoreTask(std::span<const TaskAnswers> answers);

// Wilson (1927): 95 % interval of a share. [0, 1] for no trials.
Interval WilsonInterval(uint64_t hits, uint64_t trials);
// Bonett and Price (2012): 95 % interval of a difference of paired shares, (wins + 1) / (n + 2) - (losses + 1) / (n +
// 2) give or take 1.96 standard errors. Has a width even where nothing differs.
Interval PairedShareInterval(uint64_t wins, uint64_t losses, uint64_t trials);
// McNemar's test, exact and two-sided: of wins + losses items that differ, half would be wins if nothing had changed.
double McNemarP(uint64_t wins, uint64_t losses);

}  // namespace pointsman
