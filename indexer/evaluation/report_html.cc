// The report as one HTML page without external resources and without script: the page around its sections.
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report.h"
#include "indexer/evaluation/report_sections.h"

namespace pointsman {
namespace {

// Nothing is loaded and nothing runs, whatever a document's text might smuggle in.
constexpr std::string_view kPolicy = "default-src 'none'; style-src 'unsafe-inline'";

struct Part {
  std::string_view id, heading;
  std::string (*html)(const EvalReport&);
};

constexpr Part kParts[] = {{"variants", "Gain and damage", VariantsHtml},
                           {"where", "Where it helps", BreakdownHtml},
                           {"answers", "Answers and generated text", AnswersHtml},
                           {"examples", "Examples", PassagesHtml},
                           {"cost", "Cost", CostHtml},
                           {"trust", "What the figures rest on", TrustHtml},
                           {"provenance", "Settings and provenance", ProvenanceHtml}};

}  // namespace

const VariantScore* FindVariant(const EvalReport& report, std::string_view name) {
  for (const VariantScore& v : report.variants) {
    if (v.name == name) return &v;
  }
  return nullptr;
}

std::string ToHtml(const EvalReport& report, const std::string& title) {
  std::string contents_html, sections_html;
  for (const Part& part : kParts) {
    const std::string html = part.html(report);
    if (html.empty()) continue;
    contents_html += fmt::format("<li><a href=\"#{}\">{}</a></li>", part.id, part.heading);
    sections_html += fmt::format(
        "<section id=\"{0}\" aria-labelledby=\"{0}-heading\"><h2 id=\"{0}-heading\">{1}</h2>\n{2}"
        "</section>\n",
        part.id, part.heading, html);
  }
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"{0}\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
      "<meta name=\"color-scheme\" content=\"light dark\"><title>{1}</title><style>{2}</style></head><body>\n"
      "<header><p class=\"soft\">Pointsman evaluation of a routing memory</p><h1>{1}</h1></header>\n<main>\n{3}"
      "<nav aria-label=\"Contents\"><ul>{4}</ul></nav>\n{5}</main>\n</body></html>\n",
      kPolicy, Escape(title), ReportStyle(), VerdictHtml(report), contents_html, sections_html);
}

}  // namespace pointsman
