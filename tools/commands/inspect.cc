// pointsman inspect: what is in a memory, as a whole, one layer (--layer) or one document (--document) of it.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "indexer/additions.h"
#include "indexer/progress.h"
#include "memory/document_id.h"
#include "memory/memory.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/document_text.h"

namespace pointsman {
namespace {

constexpr size_t kExpertsShown = 5;

nlohmann::json LayerJson(const LayerView& layer) {
  return {{"layer", layer.layer},
          {"experts", layer.experts},
          {"rows", layer.keys.rows},
          {"dim", layer.keys.dim},
          {"k", layer.calibration.k},
          {"tau", layer.calibration.tau},
          {"tau2", layer.calibration.tau2},
          {"scale", layer.calibration.scale},
          {"router_delta", !layer.router_delta.empty()},
          {"token_table", !layer.token_table.empty()},
          {"token_rows", layer.token_table_scales.size()}};
}

std::string LayerText(const LayerView& layer) {
  return fmt::format(
      "  layer {:>2}: {} rows of {} dimensions, {} experts, k {}, tau {:.3g}, tau2 {:.3g}, scale {:.3g}{}{}\n",
      layer.layer, FormatCount(layer.keys.rows), layer.keys.dim, layer.experts, layer.calibration.k,
      layer.calibration.tau, layer.calibration.tau2, layer.calibration.scale,
      layer.router_delta.empty() ? "" : ", router delta",
      layer.token_table.empty()
          ? ""
          : fmt::format(", token table of {} tokens", FormatCount(layer.token_table_scales.size())));
}

nlohmann::json GroupsJson(const GateView& gate) {
  nlohmann::json groups = nlohmann::json::array();
  for (const GateGroup& group : gate.groups) {
    groups.push_back({{"name", group.name}, {"lo", group.lo}, {"hi", group.hi}});
  }
  return groups;
}

std::string GateText(const GateView& gate) {
  if (!gate.enabled) return "gate: none, the memory acts on any text\n";
  const auto ramp = [](const GateGroup& group) {
    return fmt::format("shut below a mean evidence of {:.3f}, open above {:.3f}\n", group.lo, group.hi);
  };
  const std::string pairs = fmt::format("gate: {} token pairs, ", FormatCount(gate.pairs.size()));
  if (gate.groups.size() == 1) return pairs + ramp(gate.groups.front());
  std::string text = pairs + "open for any of these groups of documents\n";
  for (const GateGroup& group : gate.groups) text += fmt::format("  {}: {}", group.name, ramp(group));
  return text;
}

// null without an output memory.
nlohmann::json OutputJson(const OutputView& output) {
  if (!output.enabled) return nullptr;
  return {{"rows", output.keys.rows}, {"dim", output.keys.dim},  {"k", output.k},
          {"tau", output.tau},        {"lambda", output.lambda}, {"tau2", output.tau2}};
}

// Mean value of each expert over the layer's rows: what the memory pushes on average.
std::vector<double> MeanValues(const LayerView& layer) {
  std::vector<double> means(layer.experts, 0.0);
  for (uint64_t row = 0; row < layer.keys.rows; ++row) {
    for (uint32_t expert = 0; expert < layer.experts; ++expert) {
      means[expert] += static_cast<double>(layer.values[row * layer.experts + expert]) * layer.value_scales[row];
    }
  }
  for (double& mean : means) mean /= std::max<double>(1.0, static_cast<double>(layer.keys.rows));
  return means;
}

Output WholeMemory(const Memory& memory) {
  const Manifest& manifest = memory.manifest();
  const RoutingTables& tables = memory.tables();
  const MemoryStats stats = memory.stats();
  const std::string digest = Digest(tables);
  Output output;
  output.json = {{"directory", memory.directory().string()},
                 {"kind", MemoryKindText(manifest.kind)},
                 {"value_kind", ValueKindText(manifest.value_kind)},
                 {"architecture", manifest.fingerprint.architecture},
                 {"generation", stats.generation},
                 {"digest", digest},
                 {"created", manifest.created},
                 {"seed", manifest.seed},
                 {"reference_documents", manifest.reference_documents},
                 {"calibration_documents", manifest.calibration_documents},
                 {"test_documents", manifest.test_documents},
                 {"reference_tokens", manifest.reference_tokens},
                 {"added_share", AddedShare(manifest)},
                 {"rebuild_recommended", AddedShare(manifest) > kRebuildShare},
                 {"rows", stats.rows},
                 {"derived_bytes", stats.derived_bytes},
                 {"truth_bytes", stats.truth_bytes},
                 {"has_text", manifest.has_text},
                 {"gate",
                  {{"enabled", tables.gate.enabled},
                   {"token_pairs", tables.gate.pairs.size()},
                   {"groups", GroupsJson(tables.gate)}}},
                 {"output", OutputJson(tables.output)},
                 {"settings", manifest.settings},
                 {"verdict", VerdictJson(manifest.verdict)},
                 {"layers", nlohmann::json::array()}};
  std::string& text = output.text;
  text = fmt::format("{}: {} ({} values) for {}, generation {}, made {}\n", memory.directory().string(),
                     MemoryKindText(manifest.kind), ValueKindText(manifest.value_kind),
                     manifest.fingerprint.architecture, stats.generation, manifest.created);
  text += fmt::format("documents: {} reference, {} calibration, {} test; {} reference tokens{}\n",
                      FormatCount(manifest.reference_documents), FormatCount(manifest.calibration_documents),
                      FormatCount(manifest.test_documents), FormatCount(manifest.reference_tokens),
                      manifest.has_text ? "" : "; no text kept: no excerpts, no rebuild");
  if (AddedShare(manifest) > 0) {
    text += fmt::format("added since the build: {:.0f} % of the reference tokens{}\n", 100 * AddedShare(manifest),
                        AddedShare(manifest) > kRebuildShare ? "; a rebuild pays" : "");
  }
  text += fmt::format("bytes: {} to route with, {} of truth\n", FormatCount(stats.derived_bytes),
                      FormatCount(stats.truth_bytes));
  text += GateText(tables.gate);
  for (const LayerView& layer : tables.layers) {
    output.json["layers"].push_back(LayerJson(layer));
    text += LayerText(layer);
  }
  if (tables.output.enabled) {
    text += fmt::format("  output: {} next tokens of {} dimensions, k {}, tau {:.3g}, lambda {:.3g}, tau2 {:.3g}\n",
                        FormatCount(tables.output.keys.rows), tables.output.keys.dim, tables.output.k,
                        tables.output.tau, tables.output.lambda, tables.output.tau2);
  }
  text += fmt::format("digest: {}\nverdict: {}\n", digest, VerdictText(manifest.verdict));
  return output;
}

Result<Output> OneLayer(const Memory& memory, int64_t wanted) {
  std::vector<int32_t> known;
  for (const LayerView& layer : memory.tables().layers) {
    known.push_back(layer.layer);
    if (layer.layer != wanted) continue;
    const std::vector<double> means = MeanValues(layer);
    std::vector<size_t> order(means.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return means[a] > means[b]; });
    Output output{.json = LayerJson(layer), .text = LayerText(layer), .exit_code = 0};
    output.json["mean_values"] = means;
    const size_t shown = std::min(kExpertsShown, order.size());
    output.text += "  raised most on average: ";
    for (size_t i = 0; i < shown; ++i) output.text += fmt::format(" {} ({:+.3f})", order[i], means[order[i]]);
    output.text += "\n  lowered most on average:";
    for (size_t i = 0; i < shown; ++i) {
      const size_t expert = order[order.size() - 1 - i];
      output.text += fmt::format(" {} ({:+.3f})", expert, means[expert]);
    }
    output.text += "\n";
    return output;
  }
  return Error{ErrorCode::kInvalidArgument, fmt::format("--layer: {} is not adapted by this memory; its layers are {}",
                                                        wanted, fmt::join(known, ", "))};
}

Result<Output> OneDocument(const Memory& memory, const std::string& name) {
  POINTSMAN_TRY(const auto truth, memory.OpenTruth());
  std::optional<Document> found;
  POINTSMAN_CHECK_OK(truth->ForEachDocument([&](const Document& document) -> Status {
    if (document.source == name || DocumentIdText(document.hash) == name) found = document;
    return {};
  }));
  if (!found) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no document '{}'; pointsman docs list names them",
                                                   memory.directory().string(), name)};
  }
  // Rows of the published generation that come from this document, or prototypes that name it.
  Output output{.json = DocumentJson(*found), .text = {}, .exit_code = 0};
  const std::vector<std::string>& names = memory.tables().documents;
  const auto number = static_cast<uint32_t>(std::find(names.begin(), names.end(), found->source) - names.begin());
  output.json["layers"] = nlohmann::json::array();
  output.text = fmt::format("{} ({}): {}, {} tokens, sha256 {}\n", found->source, DocumentIdText(found->hash),
                            SplitRoleText(found->role), FormatCount(found->tokens.size()), found->sha256);
  for (const LayerView& layer : memory.tables().layers) {
    const auto references = std::count_if(layer.references.begin(), layer.references.end(),
                                          [&](const EntryRef& reference) { return reference.document == number; });
    output.json["layers"].push_back({{"layer", layer.layer}, {"references", references}});
    output.text +=
        fmt::format("  layer {:>2}: {} {}\n", layer.layer, FormatCount(static_cast<uint64_t>(references)),
                    memory.tables().kind == MemoryKind::kEntries ? "entries" : "places in prototypes' lists");
  }
  return output;
}

}  // namespace

Result<Output> RunInspect(const Settings& settings) {
  POINTSMAN_TRY(const auto memory, Memory::Open(settings.Path("memory"), {}));
  if (settings.Flag("digest")) {
    const std::string digest = Digest(memory->tables());
    return Output{.json = {{"digest", digest}}, .text = digest + "\n", .exit_code = 0};
  }
  if (settings.Has("document")) return OneDocument(*memory, settings.Text("document"));
  if (settings.Has("layer")) return OneLayer(*memory, settings.Integer("layer"));
  return WholeMemory(*memory);
}

}  // namespace pointsman
