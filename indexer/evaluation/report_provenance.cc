// What the figures rest on, and everything that is needed to repeat them.
#include <fmt/format.h>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

constexpr size_t kFactCharacters = 2'000;

std::string FactsHtml(const std::vector<ReportFact>& facts) {
  std::string html = "<dl class=\"facts\">";
  for (const ReportFact& fact : facts) {
    html += "<div><dt>" + Escape(fact.name) + "</dt><dd><bdi>" + EscapeClipped(fact.value, kFactCharacters) +
            "</bdi></dd></div>\n";
  }
  return html + "</dl>\n";
}

std::string OverlapHtml(const TextOverlap& overlap, const std::string& what) {
  std::string html = fmt::format(
      "<li>{} against what the memory was made from: {} near-duplicate pairs; {} of {} tokens, in {} documents, stand "
      "there word for word in runs of {} or more.",
      what, FormatCount(overlap.near_duplicates), FormatCount(overlap.repeated_tokens), FormatCount(overlap.tokens),
      FormatCount(overlap.repeated_documents), kRepeatedRun);
  if (!overlap.worst.empty()) {
    const SimilarPair& pair = overlap.worst.front();
    html += fmt::format(" Most alike: <bdi>{}</bdi> and <bdi>{}</bdi> ({:.2f}).", EscapeClipped(pair.document, 200),
                        EscapeClipped(pair.reference, 200), pair.similarity);
  }
  return html + "</li>\n";
}

}  // namespace

std::string TrustHtml(const EvalReport& report) {
  std::string html =
      "<p>The test documents were chosen by near-duplicate cluster: copies of one text, and near copies, are all test "
      "or "
      "none of them is. Intervals are bootstraps over those clusters, paired on the same tokens.</p>\n<ul>\n";
  if (report.test_looks > 0) {
    html += fmt::format(
        "<li>This is look {} at this test split.{}</li>\n", report.test_looks,
        report.test_looks > 1 ? " Choices made after earlier looks make its figures a little optimistic." : "");
  }
  if (report.reference_tokens > 0) {
    html += fmt::format("<li>Everything that is trained was made from the same {} documents, {} tokens.</li>\n",
                        FormatCount(report.reference_documents), FormatCount(report.reference_tokens));
  }
  if (report.leakage) {
    html += OverlapHtml(report.leakage->test, "Test text") + OverlapHtml(report.leakage->unrelated, "Unrelated text");
    if (const auto& gain = report.leakage->gain_without_repeated) {
      html += fmt::format("<li>Without its repeated tokens the gain is {} ({}).</li>\n", SignedText(gain->mean),
                          IntervalText(gain->ci95));
    }
  }
  for (const std::string& note : report.notes) html += "<li>" + Escape(note) + "</li>\n";
  return html + "</ul>\n";
}

std::string ProvenanceHtml(const EvalReport& report) {
  std::string html;
  if (!report.provenance.empty()) html += "<h3>Where it comes from</h3>\n" + FactsHtml(report.provenance);
  if (!report.settings.empty()) html += "<h3>Settings</h3>\n" + FactsHtml(report.settings);
  return html;
}

}  // namespace pointsman
