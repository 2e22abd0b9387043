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
          {"bytes_per_token", Number(v.bytes_per_token)},
          {"seeds", v.seeds},
          {"seed_sd", Number(v.seed_sd)}};
}

Json OverlapJson(const TextOverlap& overlap) {
  Json worst = Json::array();
  for (const SimilarPair& pair : overlap.worst) {
    worst.push_back({{"document", pair.document}, {"reference", pair.reference}, {"similarity", pair.similarity}});
  }
  return {{"documents", overlap.documents},
          {"reference_documents", overlap.reference_documents},
          {"near_duplicates", overlap.near_duplicates},
          {"worst", std::move(worst)},
          {"tokens", overlap.tokens},
          {"repeated_tokens", overlap.repeated_tokens},
          {"repeated_documents", overlap.repeated_documents},
          {"longest_run", overlap.longest_run}};
}

Json LeakageJson(const std::optional<LeakageReport>& leakage) {
  if (!leakage) return nullptr;
  const auto& gain = leakage->gain_without_repeated;
  return {{"run_tokens", kRepeatedRun},
          {"left_out", leakage->left_out},
          {"test", OverlapJson(leakage->test)},
          {"unrelated", OverlapJson(leakage->unrelated)},
          {"gain_without_repeated", gain ? Number(gain->mean) : Json(nullptr)},
          {"gain_without_repeated_ci95", gain ? Pair(gain->ci95) : Json(nullptr)}};
}

Json RowJson(const BreakdownRow& row) {
  Json json = {{"by", row.by},
               {"name", row.name},
               {"documents", row.documents},
               {"tokens", row.tokens},
               {"frozen_nll", Number(row.frozen_nll)},
               {"memory_nll", Number(row.memory_nll)},
               {"gain", Number(row.gain)},
               {"ci95", Pair(row.ci95)}};
  if (row.gate) json["gate"] = Number(row.gate);
  return json;
}

Json RowsJson(const std::vector<BreakdownRow>& rows) {
  Json json = Json::array();
  for (const BreakdownRow& row : rows) json.push_back(RowJson(row));
  return json;
}

Json BreakdownJson(const Breakdown& breakdown) {
  Json layers = Json::array();
  for (const LayerRow& row : breakdown.layers) {
    layers.push_back({{"layer", row.layer},
                      {"changed_tokens", Number(row.changed_tokens)},
                      {"changed_experts", Number(row.changed_experts)},
                      {"g", Number(row.confidence)}});
  }
  return {{"kinds", RowsJson(breakdown.kinds)},
          {"classes", RowsJson(breakdown.classes)},
          {"positions", RowsJson(breakdown.positions)},
          {"layers", std::move(layers)},
          {"traced_tokens", breakdown.traced_tokens}};
}

Json TaskJson(const TaskReport& task) {
  Json variants = Json::array();
  for (const TaskScore& v : task.variants) {
    variants.push_back({{"name", v.name},
                        {"accuracy", Number(v.accuracy)},
                        {"ci95", Pair(v.ci95)},
                        {"difference", Number(v.difference)},
                        {"difference_ci95", Pair(v.difference_ci95)},
                        {"p", Number(v.p)},
                        {"wins", v.wins},
                        {"losses", v.losses}});
  }
  return {{"kind", task.kind},       {"metric", task.metric}, {"items", task.items},
          {"samples", task.samples}, {"chance", task.chance}, {"variants", std::move(variants)}};
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

const char* AdviceText(Advice advice) {
  switch (advice) {
    case Advice::kBuild:
      return "build";
    case Advice::kUnsure:
      return "unsure";
    case Advice::kInVain:
      return "in_vain";
  }
  return "unsure";
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
  Json json = {{"verdict", DecisionText(report.verdict)},
               {"stale", report.stale},
               {"dominated_by", report.dominated_by.empty() ? Json(nullptr) : Json(report.dominated_by)},
               {"documents", report.documents},
               {"tokens", report.tokens},
               {"leakage", LeakageJson(report.leakage)},
               {"variants", std::move(variants)}};
  if (!report.generation.empty()) json["generation"] = ToJson(report.generation);
  for (const TaskReport& task : report.tasks) json["tasks"].push_back(TaskJson(task));
  if (report.breakdown) json["breakdown"] = BreakdownJson(*report.breakdown);
  return json;
}

Json ToJson(const ProbeReport& report) {
  Json layers = Json::array();
  for (const LayerHeadroom& l : report.layers) {
    layers.push_back({{"layer", l.layer}, {"headroom", Number(l.headroom)}, {"ci95", Pair(l.ci95)}});
  }
  return {{"tokens", report.tokens},
          {"documents", report.documents},
          {"headroom", Number(report.headroom)},
          {"ci95", Pair(report.ci95)},
          {"layers", std::move(layers)},
          {"transfer", Number(report.transfer)},
          {"transfer_ci95", Pair(report.transfer_ci95)},
          {"equal_experts", report.equal_experts},
          {"advice", AdviceText(report.advice)}};
}

Json ToJson(const PlanReport& report) {
  return {{"tokens", report.tokens},
          {"ram_bytes", report.ram_bytes},
          {"seconds", Number(report.seconds)},
          {"truth_bytes", report.truth_bytes},
          {"derived_bytes", report.derived_bytes}};
}

}  // namespace pointsman
