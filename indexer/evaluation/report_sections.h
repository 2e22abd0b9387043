// The sections of the report's page, each a <section> with a heading, in the order of the page. A section that has
// nothing to say is empty. Texts from documents are escaped (html.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "indexer/evaluation/report.h"

namespace pointsman {

std::string_view ReportStyle();  // the page's style sheet

std::string VerdictHtml(const EvalReport& report);     // the decision, the figures that carry it, what to do next
std::string VariantsHtml(const EvalReport& report);    // gain and damage of every variant: plots and tables
std::string BreakdownHtml(const EvalReport& report);   // kinds, token classes, positions, layers
std::string AnswersHtml(const EvalReport& report);     // task metrics, generated text
std::string PassagesHtml(const EvalReport& report);    // examples
std::string CostHtml(const EvalReport& report);        // seconds and bytes
std::string TrustHtml(const EvalReport& report);       // what the figures rest on: split, leakage, notes
std::string ProvenanceHtml(const EvalReport& report);  // model, memory, texts, settings

// What a reader should do now, one sentence each, the most urgent first.
std::vector<std::string> NextSteps(const EvalReport& report);

// The variant named `name`, or null.
const VariantScore* FindVariant(const EvalReport& report, std::string_view name);

}  // namespace pointsman
