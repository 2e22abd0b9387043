// The top of the page: the verdict in a sentence, the figures that carry it, what to do next.
#include <fmt/format.h>

#include <cmath>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

// Below this many, VerdictOptions::min_clusters keeps the verdict inconclusive.
constexpr uint64_t kFewDocuments = 20;

std::string Card(const std::string& name, const std::string& figure, const std::vector<std::string>& lines) {
  std::string html =
      "<div class=\"card\"><dt>" + Escape(name) + "</dt><dd><span class=\"figure\">" + Escape(figure) + "</span>";
  for (const std::string& line : lines) html += "<span class=\"line\">" + Escape(line) + "</span>";
  return html + "</dd></div>\n";
}

std::string Capitalized(std::string sentence) {
  if (!sentence.empty() && sentence[0] >= 'a' && sentence[0] <= 'z') sentence[0] = static_cast<char>(sentence[0] - 32);
  return sentence;
}

std::string PerplexityText(double before, double after) {
  return fmt::format("perplexity {:.1f} to {:.1f}", std::exp(before), std::exp(after));
}

std::string CardsHtml(const EvalReport& report, const VariantScore& memory) {
  std::vector<std::string> gain{"nats per token; less than 0 is better",
                                "95\u00A0% interval " + IntervalText(memory.ci95),
                                "asked for: below " + SignedText(-report.min_gain, 3)};
  if (const VariantScore* frozen = FindVariant(report, "frozen"))
    gain.push_back(PerplexityText(frozen->nll, memory.nll));
  std::string html = "<dl class=\"cards\">" + Card("Change of the loss on your text", SignedText(memory.gain), gain);
  if (memory.damage) {
    html += Card("Change of the loss on unrelated text", SignedText(memory.damage),
                 {"nats per token; 0 is best", "95\u00A0% interval " + IntervalText(memory.damage_ci95),
                  "allowed: below " + SignedText(report.damage_bound, 3)});
  }
  if (memory.untouched_tokens) {
    html += Card("Unrelated text left alone", PercentText(memory.untouched_tokens, 1),
                 {"of its tokens keep their routing",
                  PercentText(memory.identical_documents, 1) + " of its documents come out bit\u2011identical"});
  }
  return html + "</dl>\n";
}

const BreakdownRow* WorseKind(const EvalReport& report) {
  if (!report.breakdown) return nullptr;
  for (const BreakdownRow& row : report.breakdown->kinds) {
    if (row.ci95 && row.ci95->low > 0) return &row;
  }
  return nullptr;
}

bool IsTooHarmful(const EvalReport& report, const VariantScore& memory) {
  return memory.damage_ci95 && memory.damage_ci95->low > report.damage_bound;
}

void AddForAdopt(const EvalReport& report, std::vector<std::string>& steps) {
  if (!report.dominated_by.empty()) {
    steps.push_back("Look at " + report.dominated_by + " first: it is better on this text and costs less.");
  }
  steps.emplace_back(
      "Switch the memory on (--memory) for text like the test split; the gate keeps it silent elsewhere.");
  steps.emplace_back(
      "Run pointsman eval again when your text, the model or the memory changes, and keep this page with the "
      "memory.");
}

void AddForReject(const EvalReport& report, const VariantScore& memory, std::vector<std::string>& steps) {
  steps.emplace_back("Leave the memory off.");
  if (IsTooHarmful(report, memory)) {
    steps.emplace_back(
        "It changes text that it should leave alone: build again, and name text that must not change with "
        "--off-domain, so that the gate is fitted on it.");
  } else {
    steps.emplace_back(
        "Run pointsman probe on this corpus: it says how much routing could gain here at best. Where that is "
        "little, no memory will help; where it is much, give the build more text like the test split.");
  }
}

void AddForInconclusive(const EvalReport& report, const VariantScore& memory, std::vector<std::string>& steps) {
  if (!memory.damage_ci95) {
    steps.emplace_back("Give unrelated text with --off-domain: without it damage is unknown, and nothing is adopted.");
  }
  if (report.documents < kFewDocuments || (memory.damage_ci95 && report.unrelated_documents < kFewDocuments)) {
    steps.push_back(
        fmt::format("Score more documents, at least {} of your text and {} unrelated ones: fewer say little "
                    "about others like them (--test-corpus, --off-domain).",
                    kFewDocuments, kFewDocuments));
  }
  const bool gain_open = !IsFinite(memory.ci95) || memory.ci95->high >= -report.min_gain;
  if (gain_open) {
    steps.emplace_back(
        "The interval of the gain reaches over what is asked for: score more test documents "
        "(--max-test-tokens, --test-corpus) or build from more text.");
  }
  if (memory.damage_ci95 && memory.damage_ci95->high >= report.damage_bound) {
    steps.emplace_back(
        "The interval of the damage reaches over its bound: measure it on more unrelated text (--off-domain, "
        "--max-off-domain-tokens).");
  }
  steps.emplace_back("Until then leave the memory off.");
}

}  // namespace

std::vector<std::string> NextSteps(const EvalReport& report) {
  const VariantScore* memory = FindVariant(report, "memory");
  if (memory == nullptr) {
    return {"Build a memory (pointsman build), then score it: pointsman eval --memory."};
  }
  std::vector<std::string> steps;
  if (report.stale) {
    steps.emplace_back("The memory was written after it was scored: run pointsman eval again before you rely on this.");
  }
  switch (report.verdict) {
    case Decision::kAdopt:
      AddForAdopt(report, steps);
      break;
    case Decision::kReject:
      AddForReject(report, *memory, steps);
      break;
    case Decision::kInconclusive:
      AddForInconclusive(report, *memory, steps);
      break;
  }
  if (const BreakdownRow* worse = WorseKind(report)) {
    steps.push_back(
        fmt::format("It makes {} {} worse ({} nats per token): serve those without it, or build from more of "
                    "them.",
                    worse->by, worse->name, SignedText(worse->gain)));
  }
  return steps;
}

std::string VerdictHtml(const EvalReport& report) {
  const std::string decision = DecisionText(report.verdict);
  std::string html = fmt::format(
      "<section class=\"verdict {0}\" aria-labelledby=\"verdict-heading\"><h2 id=\"verdict-heading\">Verdict: "
      "<span class=\"word\">{0}</span></h2>\n<p class=\"reason\">{1}.</p>\n",
      decision, Escape(Capitalized(report.reason)));
  if (const VariantScore* memory = FindVariant(report, "memory")) html += CardsHtml(report, *memory);
  html += "<h3>What to do next</h3>\n<ul>\n";
  for (const std::string& step : NextSteps(report)) html += "<li>" + Escape(step) + "</li>\n";
  return html + "</ul></section>\n";
}

}  // namespace pointsman
