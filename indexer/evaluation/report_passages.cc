// Examples: passages whose tokens are tinted by gain, and who stands behind a few of them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/progress.h"

namespace pointsman {
namespace {

constexpr size_t kNameCharacters = 120;
constexpr size_t kExcerptCharacters = 160;
constexpr size_t kTokenCharacters = 40;
// |nats| from which a token has tint 1 to 4; below the first it has none.
constexpr double kTints[] = {0.1, 0.5, 1, 2};

const char* RoleText(PassageRole role) {
  switch (role) {
    case PassageRole::kBest:
      return "The document that gained most";
    case PassageRole::kMedian:
      return "The document in the middle";
    case PassageRole::kWorst:
      return "The document that gained least";
    case PassageRole::kUnrelated:
      return "The unrelated document that was harmed most";
  }
  return "";
}

// "b2": better, tint 2; "w4": worse, tint 4; empty: no visible change.
std::string TintOf(double gain) {
  const auto tint = std::count_if(std::begin(kTints), std::end(kTints), [&](double t) { return std::abs(gain) >= t; });
  return tint == 0 ? std::string() : fmt::format("{}{}", gain < 0 ? 'b' : 'w', tint);
}

// Line breaks are shown and kept.
std::string TokenText(const std::string& text) {
  std::string html;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    html += Escape(std::string_view(text).substr(at, end - at));
    if (end < text.size()) html += "<span class=\"break\" aria-hidden=\"true\">\xE2\x86\xB5</span>\n";
    at = end + 1;
  }
  return html;
}

std::string TokenHtml(const PassageToken& token) {
  if (!token.counted) return TokenText(token.text);
  const std::string tint = TintOf(token.gain());
  return fmt::format("<span{} title=\"loss {:.2f} to {:.2f} ({}), gate {:.2f}\">{}</span>",
                     tint.empty() ? "" : " class=\"" + tint + "\"", token.frozen, token.memory,
                     SignedText(token.gain(), 2), token.gate, TokenText(token.text));
}

std::string ChangesHtml(const ExplainedToken& explained) {
  if (explained.changes.empty()) return "<p>No expert of this token changed: earlier tokens of the text did.</p>\n";
  std::string html = "<ul>";
  for (const ExpertChange& change : explained.changes) {
    html += fmt::format(
        "<li>layer {}, confidence {:.2f}: experts {} <span aria-hidden=\"true\">\xE2\x86\x92</span>"
        "<span class=\"hidden\">became</span> {}</li>",
        change.layer, change.confidence, fmt::join(change.gone, ", "), fmt::join(change.come, ", "));
  }
  return html + "</ul>\n";
}

std::string NeighboursHtml(const ExplainedToken& explained) {
  if (explained.neighbours.empty()) return "";
  std::string html = fmt::format("<p>Nearest in the memory at layer {}:</p><ol>", explained.neighbours_layer);
  for (const RowSource& source : explained.neighbours) {
    html += fmt::format("<li>similarity {:.2f}, <bdi>{}</bdi>, token {}", source.similarity,
                        EscapeClipped(source.document, kNameCharacters), source.position);
    if (!source.excerpt.empty()) html += ": <code>" + EscapeClipped(source.excerpt, kExcerptCharacters) + "</code>";
    html += "</li>\n";
  }
  return html + "</ol>\n";
}

std::string ExplainedHtml(const Passage& passage) {
  if (passage.explained.empty()) {
    const bool for_the_better = passage.role == PassageRole::kBest || passage.role == PassageRole::kMedian;
    return fmt::format("<p>No token of this stretch became {} by 0.1 nats or more.</p>\n",
                       for_the_better ? "better" : "worse");
  }
  std::string html = "<div class=\"explained\">";
  for (const ExplainedToken& explained : passage.explained) {
    const PassageToken& token = passage.tokens[explained.token];
    html +=
        fmt::format("<div class=\"card\"><h4>Token <code>{}</code></h4><p>Loss {} to {}: {} nats. Gate {:.2f}.</p>\n",
                    EscapeClipped(OneLine(token.text), kTokenCharacters), FigureText(token.frozen, 2),
                    FigureText(token.memory, 2), SignedText(token.gain(), 2), token.gate);
    html += ChangesHtml(explained) + NeighboursHtml(explained) + "</div>\n";
  }
  return html + "</div>\n";
}

std::string PassageHtml(const Passage& passage) {
  std::string html = fmt::format(
      "<article><h3>{}</h3>\n<p><bdi>{}</bdi>: {} nats per token over its {} tokens. {} tokens from token {} on:</p>\n"
      "<pre class=\"passage\">",
      RoleText(passage.role), EscapeClipped(passage.document, kNameCharacters), SignedText(passage.document_gain),
      FormatCount(passage.document_tokens), passage.tokens.size(), passage.position);
  for (const PassageToken& token : passage.tokens) html += TokenHtml(token);
  html += "</pre>\n";
  const bool untouched =
      std::all_of(passage.tokens.begin(), passage.tokens.end(), [](const PassageToken& t) { return t.gate <= 0; });
  if (untouched) return html + "<p>The gate stayed shut: the memory changed nothing here.</p></article>\n";
  return html + ExplainedHtml(passage) + "</article>\n";
}

std::string LegendHtml() {
  return "<p class=\"legend\">Tint and line by change of the token's loss: <span class=\"b4\">better by 2 nats</span> "
         "<span class=\"b3\">1</span> <span class=\"b2\">0.5</span> <span class=\"b1\">0.1</span> <span>no "
         "change</span> "
         "<span class=\"w1\">worse by 0.1</span> <span class=\"w2\">0.5</span> <span class=\"w3\">1</span> "
         "<span class=\"w4\">2 nats</span>. Better has a solid line below, worse a dotted one.</p>\n";
}

}  // namespace

std::string PassagesHtml(const EvalReport& report) {
  if (report.passages.empty()) {
    if (report.passages_absent.empty()) return "";
    return "<p>No text is shown: " + Escape(report.passages_absent) + ".</p>\n";
  }
  std::string html = LegendHtml();
  for (const Passage& passage : report.passages) html += PassageHtml(passage);
  return html;
}

}  // namespace pointsman
