#include "models/explain.h"

#include <fmt/format.h>

#include <algorithm>

namespace pointsman {
namespace {

constexpr size_t kNeighboursShown = 2;  // of a layer, in the text; the JSON has all

Result<DocumentTexts> ReadTexts(const Memory& memory, const Tokenizer& tokenizer) {
  POINTSMAN_TRY(const auto truth, memory.OpenTruth());
  return DocumentTexts::Load(*truth, tokenizer);
}

}  // namespace

TokenExplanation ExplainToken(const RoutingTables& tables, const DocumentTexts* texts, int64_t experts_per_token,
                              uint32_t position, int32_t token, float gate, std::span<const RowTrace> trace) {
  TokenExplanation explained{.position = position, .token = token, .gate = gate, .layers = {}};
  for (const RowTrace& row : trace) {
    explained.layers.push_back({.layer = row.layer,
                                .confidence = row.confidence,
                                .written = row.written,
                                .neighbours = SourcesOf(tables, row, texts),
                                .before = TopExperts(row.logits_before, experts_per_token),
                                .after = TopExperts(row.logits_after, experts_per_token)});
  }
  return explained;
}

nlohmann::json ToJson(const TokenExplanation& token) {
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerExplanation& layer : token.layers) {
    nlohmann::json neighbours = nlohmann::json::array();
    for (const RowSource& source : layer.neighbours) {
      nlohmann::json item = {
          {"document", source.document}, {"position", source.position}, {"similarity", source.similarity}};
      if (!source.excerpt.empty()) item["excerpt"] = source.excerpt;
      neighbours.push_back(std::move(item));
    }
    layers.push_back({{"layer", layer.layer},
                      {"g", layer.confidence},
                      {"neighbours", std::move(neighbours)},
                      {"experts_before", layer.before},
                      {"experts_after", layer.after}});
  }
  return {{"position", token.position}, {"token", token.token}, {"gate", token.gate}, {"layers", std::move(layers)}};
}

Explainer::Explainer(const MoeModel& model, std::shared_ptr<const Memory> memory, std::string* warning)
    : model_(model), memory_(std::move(memory)) {
  Result<DocumentTexts> texts = ReadTexts(*memory_, model.tokenizer());
  if (texts.ok()) {
    texts_ = std::move(texts).value();
  } else if (warning) {
    *warning = "no excerpts: " + texts.error().message;
  }
}

void Explainer::Add(int32_t token, const Step& step, const std::vector<RowTrace>& trace) {
  const auto last = static_cast<uint32_t>(step.positions.size() - 1);
  float gate = step.gate.empty() ? 0.0f : step.gate.back();
  std::vector<RowTrace> rows;
  for (const RowTrace& row : trace) {
    if (row.row == last) rows.push_back(row);
  }
  if (!rows.empty()) gate = rows.back().gate;
  tokens_.push_back(ExplainToken(memory_->tables(), texts_ ? &*texts_ : nullptr, model_.config().experts_per_token,
                                 step.positions.back() + 1, token, gate, rows));
}

nlohmann::json Explainer::Json() const {
  nlohmann::json list = nlohmann::json::array();
  for (const TokenExplanation& token : tokens_) list.push_back(ToJson(token));
  return list;
}

std::string Explainer::Text() const {
  std::string text;
  for (const TokenExplanation& token : tokens_) {
    const std::vector<int32_t> id{token.token};
    text += fmt::format("token {:>3}  \"{}\"  gate {:.2f}\n", token.position,
                        OneLine(model_.tokenizer().Decode(id, false)), token.gate);
    size_t unmoved = 0;
    for (const LayerExplanation& layer : token.layers) {
      const std::vector<int64_t> gone = Without(layer.before, layer.after), come = Without(layer.after, layer.before);
      if (gone.empty()) {
        ++unmoved;
        continue;
      }
      text += fmt::format("  layer {:>2}  g {:.2f}  experts {} -> {}\n", layer.layer, layer.confidence,
                          fmt::join(gone, " "), fmt::join(come, " "));
      for (size_t i = 0; i < std::min(kNeighboursShown, layer.neighbours.size()); ++i) {
        const RowSource& source = layer.neighbours[i];
        text += fmt::format("      {:.2f}  {}:{}  {}\n", source.similarity, source.document, source.position,
                            source.excerpt);
      }
    }
    if (unmoved > 0)
      text += fmt::format("  {} layer{}: the same experts as without the memory\n", unmoved, unmoved == 1 ? "" : "s");
  }
  return text;
}

}  // namespace pointsman
