#include "indexer/evaluation/generation_score.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

using Json = nlohmann::json;

Json Number(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

std::string Percent(const std::optional<double>& share) { return share ? fmt::format("{:.1f}%", 100 * *share) : "-"; }

// An interval without two finite ends says nothing.
bool Says(const std::optional<Interval>& interval) {
  return interval && std::isfinite(interval->low) && std::isfinite(interval->high);
}

std::string Points(const std::optional<Interval>& interval) {
  if (!Says(interval)) return "-";
  return fmt::format("{:+.1f} to {:+.1f}", 100 * interval->low, 100 * interval->high);
}

}  // namespace

Json ToJson(std::span<const GenerationScore> scores) {
  Json list = Json::array();
  for (const GenerationScore& s : scores) {
    list.push_back(
        {{"variant", s.variant},
         {"temperature", Number(s.temperature)},
         {"prompts", s.prompts},
         {"tokens", s.tokens},
         {"match", Number(s.match)},
         {"match_vs_frozen",
          Says(s.match_vs_frozen) ? Json::array({s.match_vs_frozen->low, s.match_vs_frozen->high}) : Json(nullptr)},
         {"prefix", Number(s.prefix)},
         {"repeated_4grams", s.repeated_4grams},
         {"distinct_1", s.distinct[0]},
         {"distinct_2", s.distinct[1]},
         {"distinct_3", s.distinct[2]}});
  }
  return list;
}

std::string ToTable(std::span<const GenerationScore> scores) {
  if (scores.empty()) return {};
  std::string text = fmt::format(
      "\nGenerated text: {} test documents continued from the first half of a window.\n"
      "  match = share of the first {} tokens that are the document's own; minus frozen = the same in points, 95%;\n"
      "  prefix = tokens before the first other one; repeated = share of 4-grams that the text had already;\n"
      "  distinct = different n-grams / all. truth = how the documents go on.\n"
      "  {:<14}  {:>6}  {:>7}  {:>7}  {:>16}  {:>6}  {:>8}  {:>20}\n",
      scores.front().prompts, kMatchTokens, "variant", "temp", "tokens", "match", "minus frozen", "prefix", "repeated",
      "distinct 1, 2, 3");
  for (const GenerationScore& s : scores) {
    text += fmt::format("  {:<14}  {:>6}  {:>7}  {:>7}  {:>16}  {:>6}  {:>8}  {:>20}\n", s.variant,
                        !s.temperature          ? "-"
                        : *s.temperature == 0.0 ? "greedy"
                                                : fmt::format("{:g}", *s.temperature),
                        s.tokens, Percent(s.match), Points(s.match_vs_frozen),
                        s.prefix ? fmt::format("{:.2f}", *s.prefix) : "-", Percent(s.repeated_4grams),
                        fmt::format("{:.3f} {:.3f} {:.3f}", s.distinct[0], s.distinct[1], s.distinct[2]));
  }
  return text;
}

}  // namespace pointsman
