#include "indexer/evaluation/report.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace pointsman {
namespace {

using Json = nlohmann::json;

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
Json Number(const std::optional<double>& value) { return value ? Number(*value) : Json(nullptr); }

// An interval without two finite ends says nothing: null.
Json Pair(const std::optional<Interval>& interval) {
  if (!interval || !std::isfinite(interval->low) || !std::isfinite(interval->high)) return nullptr;
  return Json::array({interval->low, interval->high});
}

Json Worst(const std::optional<WorstSequence>& worst) {
  if (!worst) return nullptr;
  return {{"change", Number(worst->change)}, {"tokens", worst->tokens}};
}

Json VariantJson(const VariantScore& v) {
  return {{"name", v.name},
          {"nll", Number(v.nll)},
          {"gain", Number(v.gain)},
          {"ci95", Pair(v.ci95)},
          {"vs_memory", Pair(v.vs_memory)},
          {"p", Number(v.p)},
          {"share", Number(v.share)},
          {"damage", Number(v.damage)},
          {"damage_ci95", Pair(v.damage_ci95)},
          {"worst_sequence", Worst(v.worst)},
          {"worst_unrelated_sequence", Worst(v.worst_unrelated)},
          {"untouched_tokens", Number(v.untouched_tokens)},
          {"identical_documents", Number(v.identical_documents)},
          {"build_s", Number(v.build_s)},
          {"seconds_per_token", Number(v.seconds_per_token)},
          {"bytes_per_token", Number(v.bytes_per_token)}};
}

}  // namespace

const char* DecisionText(Decision decision) {
  switch (decision) {
    case Decision::kAdopt:
      return "adopt";
    case Decision::kReject:
      return "reject";
    case Decision::kInconclusive:
      return "inconclusive";
  }
  return "inconclusive";
}

VariantKind KindOf(const std::string& name) {
  if (name == "memory") return VariantKind::kMemory;
  if (name == "random_neighbours" || name == "shuffled_values") return VariantKind::kControl;
  if (name.starts_with("frozen") || name == "memory_second_half" || name == "full_finetune" || name == "oracle")
    return VariantKind::kReferencePoint;
  return VariantKind::kRival;
}

Json ToJson(const EvalReport& report) {
  Json variants = Json::array();
  for (const VariantScore& v : report.variants) variants.push_back(VariantJson(v));
  return {{"verdict", DecisionText(report.verdict)},
          {"stale", report.stale},
          {"dominated_by", report.dominated_by.empty() ? Json(nullptr) : Json(report.dominated_by)},
          {"documents", report.documents},
          {"tokens", report.tokens},
          {"variants", std::move(variants)}};
}

Json ToJson(const ProbeReport& report) {
  Json layers = Json::array();
  for (const LayerHeadroom& l : report.layers) layers.push_back({{"layer", l.layer}, {"headroom", Number(l.headroom)}});
  return {{"tokens", report.tokens},
          {"headroom", Number(report.headroom)},
          {"ci95", Pair(report.ci95)},
          {"layers", std::move(layers)}};
}

Json ToJson(const PlanReport& report) {
  return {{"tokens", report.tokens},
          {"ram_bytes", report.ram_bytes},
          {"seconds", Number(report.seconds)},
          {"truth_bytes", report.truth_bytes},
          {"derived_bytes", report.derived_bytes}};
}

}  // namespace pointsman
