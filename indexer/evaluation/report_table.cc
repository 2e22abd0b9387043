// The report as text for the terminal.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "indexer/evaluation/report.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

constexpr const char* kBold = "\x1b[1m";
constexpr const char* kReset = "\x1b[0m";

// Rows of cells, the first left-aligned, the others right-aligned under their header.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back({std::move(header), true}); }
  void Add(std::vector<std::string> cells, bool bold) { rows_.push_back({std::move(cells), bold}); }

  std::string Text(bool color) const {
    std::vector<size_t> widths(rows_.front().cells.size(), 0);
    for (const Row& row : rows_) {
      for (size_t i = 0; i < row.cells.size(); ++i) widths[i] = std::max(widths[i], row.cells[i].size());
    }
    std::string text;
    for (const Row& row : rows_) {
      std::string line = fmt::format("  {:<{}}", row.cells[0], widths[0]);
      for (size_t i = 1; i < row.cells.size(); ++i) line += fmt::format("  {:>{}}", row.cells[i], widths[i]);
      text += color && row.bold ? kBold + line + kReset : line;
      text += '\n';
    }
    return text;
  }

 private:
  struct Row {
    std::vector<std::string> cells;
    bool bold;
  };
  std::vector<Row> rows_;
};

std::string Signed(const std::optional<double>& value) { return value ? fmt::format("{:+.4f}", *value) : "-"; }

std::string IntervalText(const std::optional<Interval>& interval) {
  if (!interval || !std::isfinite(interval->low) || !std::isfinite(interval->high)) return "-";
  return fmt::format("{:+.4f} to {:+.4f}", interval->low, interval->high);
}

std::string PText(const std::optional<double>& p) {
  if (!p) return "-";
  return *p < 0.001 ? "<0.001" : fmt::format("{:.3f}", *p);
}

std::string Percent(const std::optional<double>& share, int digits) {
  return share ? fmt::format("{:.{}f}%", 100 * *share, digits) : "-";
}

std::string Plain(const std::optional<double>& value, double factor = 1) {
  if (!value) return "-";
  const double scaled = factor * *value;
  return scaled >= 100 ? FormatCount(static_cast<uint64_t>(std::llround(scaled))) : fmt::format("{:.1f}", scaled);
}

std::string VerdictLine(const EvalReport& report, bool color) {
  static constexpr const char* kColors[] = {"\x1b[1;32m", "\x1b[1;31m", "\x1b[1;33m"};
  const std::string word = DecisionText(report.verdict);
  const std::string shown = color ? kColors[static_cast<size_t>(report.verdict)] + word + kReset : word;
  std::string text = "Verdict: " + shown + ": " + report.reason + ".\n";
  if (report.stale) text += "The memory was written after it was scored: run pointsman eval again.\n";
  if (!report.dominated_by.empty()) {
    text += "A cheaper variant is better on this text: " + report.dominated_by + ".\n";
  }
  return text;
}

std::string GainTable(const EvalReport& report, bool color) {
  Table table({"variant", "loss", "gain", "95% interval", "minus memory, 95%", "p", "share"});
  for (const VariantScore& v : report.variants) {
    const bool baseline = !v.ci95;
    table.Add({v.name, fmt::format("{:.4f}", v.nll), baseline ? "-" : Signed(v.gain), IntervalText(v.ci95),
               IntervalText(v.vs_memory), PText(v.p), Percent(v.share, 0)},
              KindOf(v.name) == VariantKind::kMemory);
  }
  return table.Text(color);
}

std::string DamageTable(const EvalReport& report, bool color) {
  Table table({"variant", "damage", "95% interval", "untouched", "identical", "build s", "ms/token", "bytes/token"});
  for (const VariantScore& v : report.variants) {
    table.Add({v.name, v.ci95 ? Signed(v.damage) : "-", IntervalText(v.damage_ci95), Percent(v.untouched_tokens, 1),
               Percent(v.identical_documents, 1), Plain(v.build_s), Plain(v.seconds_per_token, 1000),
               Plain(v.bytes_per_token)},
              KindOf(v.name) == VariantKind::kMemory);
  }
  return table.Text(color);
}

std::string AdviceLine(const ProbeReport& report) {
  if (report.equal_experts) {
    return "Building is in vain: the experts of every layer are equal, so no choice among them can change anything but "
           "the scale of a layer's output.\n";
  }
  switch (report.advice) {
    case Advice::kInVain:
      return fmt::format("Building is in vain: even ideal routing would gain less than the {:g} nats asked for.\n",
                         report.min_gain);
    case Advice::kBuild:
      return "Worth building: there is room, and what a little of this text teaches a router carries over to the "
             "rest.\n";
    case Advice::kUnsure:
      break;
  }
  return "Unsure: there is room, but what half of this sample teaches a router does not help on the other half; a "
         "memory may gain nothing.\n  A larger --sample-tokens, or a build with its verdict, would tell.\n";
}

std::string PercentInterval(const std::optional<Interval>& interval, const char* format) {
  if (!interval) return "-";
  return fmt::format(fmt::runtime(format), 100 * interval->low) + " to " +
         fmt::format(fmt::runtime(format), 100 * interval->high);
}

std::string TaskTable(const TaskReport& task, bool color) {
  std::string text = fmt::format("\nTask: {}, {} items", task.metric, FormatCount(task.items));
  if (task.samples > 1) text += fmt::format(", majority of {} samples each", task.samples);
  if (task.chance > 0) text += fmt::format("; a guess is right in {:.1f}%", 100 * task.chance);
  text +=
      ".\n  accuracy and its difference to frozen in percent, higher is better, with 95% intervals paired by item;\n"
      "  wins = right where frozen is wrong, losses = the other way round; p of no difference (McNemar, Holm).\n";
  Table table({"variant", "accuracy", "95% interval", "difference", "95% interval", "p", "wins", "losses"});
  for (const TaskScore& v : task.variants) {
    const bool baseline = !v.difference;
    table.Add(
        {v.name, fmt::format("{:.1f}", 100 * v.accuracy), PercentInterval(v.ci95, "{:.1f}"),
         baseline ? "-" : fmt::format("{:+.1f}", 100 * *v.difference), PercentInterval(v.difference_ci95, "{:+.1f}"),
         PText(v.p), baseline ? "-" : FormatCount(v.wins), baseline ? "-" : FormatCount(v.losses)},
        KindOf(v.name) == VariantKind::kMemory);
  }
  return text + table.Text(color);
}

std::string Bytes(uint64_t bytes) {
  if (bytes >= 1000000000) return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace

std::string ToTable(const EvalReport& report, bool color) {
  std::string text = VerdictLine(report, color);
  text += fmt::format("\nYour text: {} documents, {} tokens that no variant has seen", FormatCount(report.documents),
                      FormatCount(report.tokens));
  if (report.reference_tokens > 0) {
    text += fmt::format("; made from {} documents, {} tokens", FormatCount(report.reference_documents),
                        FormatCount(report.reference_tokens));
  }
  if (report.test_looks > 1) text += fmt::format("; look {} at this test split", report.test_looks);
  text += fmt::format(
      ".\n  loss in nats per token, lower is better; gain = loss minus the frozen model's, negative is better, {:g} is "
      "asked "
      "for;\n  minus memory = loss minus the memory's, positive means the memory is better; p of no gain (Holm);\n"
      "  share = part of full fine-tuning's gain.\n",
      -report.min_gain);
  text += GainTable(report, color);
  if (report.unrelated_documents > 0) {
    text += fmt::format("\nUnrelated text: {} documents, {} tokens.\n", FormatCount(report.unrelated_documents),
                        FormatCount(report.unrelated_tokens));
    text += fmt::format(
        "  damage = change of the loss there in nats per token, at most {:g} is allowed; untouched = tokens whose "
        "routing was\n"
        "  left alone; identical = documents with bit-identical output.\n",
        report.damage_bound);
  } else {
    text += "\nUnrelated text: none was given, so damage is unknown.\n";
  }
  text += "  Cost: seconds to build, milliseconds to score a token, bytes stored per reference token (all layers).\n";
  text += DamageTable(report, color);
  text += ToTable(report.generation);
  for (const TaskReport& task : report.tasks) text += TaskTable(task, color);
  if (!report.notes.empty()) text += "\nNotes:\n";
  for (const std::string& note : report.notes) text += "  * " + note + "\n";
  return text;
}

std::string ToTable(const ProbeReport& report) {
  std::string text = AdviceLine(report);
  text += fmt::format(
      "Headroom: ideal routing would lower the loss by {:.4f} nats per token (95% interval {:.4f} to {:.4f}), measured "
      "on {} tokens of {} documents.\n  The best a memory could do, since it sees the answers; a memory reaches a part "
      "of it.\n",
      report.headroom, report.ci95.low, report.ci95.high, FormatCount(report.tokens), FormatCount(report.documents));
  text += fmt::format(
      "Transfer: a router trained on one half of these documents lowers the loss on the other by {:.4f} ({:.4f} to "
      "{:.4f}).\n",
      report.transfer, report.transfer_ci95.low, report.transfer_ci95.high);
  Table table({"layer alone", "headroom, nats per token", "95% interval"});
  for (const LayerHeadroom& l : report.layers) {
    table.Add({std::to_string(l.layer), fmt::format("{:.4f}", l.headroom),
               fmt::format("{:.4f} to {:.4f}", l.ci95.low, l.ci95.high)},
              false);
  }
  return text + table.Text(false);
}

std::string ToTable(const PlanReport& report) {
  return fmt::format(
      "A build from {} tokens would take about {} and {} of memory,\nand write {} of truth (documents and entries) and "
      "{} of "
      "derived index (what routing reads).\n",
      FormatCount(report.tokens), FormatDuration(report.seconds), Bytes(report.ram_bytes), Bytes(report.truth_bytes),
      Bytes(report.derived_bytes));
}

}  // namespace pointsman
