#include "tools/explain.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace pointsman {
namespace {

constexpr size_t kNeighboursShown = 2;  // of a layer, in the text; the JSON has all

Result<DocumentTexts> ReadTexts(const Memory& memory, const Tokenizer& tokenizer) {
  POINTSMAN_TRY(const auto truth, memory.OpenTruth());
  return DocumentTexts::Load(*truth, tokenizer);
}

}  // namespace

Explainer::Explainer(const MoeModel& model, std::shared_ptr<const Memory> memory)
    : model_(model), memory_(std::move(memory)), tables_(memory_->tables()) {
  Result<DocumentTexts> texts = ReadTexts(*memory_, model.tokenizer());
  if (texts.ok()) {
    texts_ = std::move(texts).value();
  } else {
    spdlog::warn("no excerpts: {}", texts.error().message);
  }
}

void Explainer::Add(int32_t token, const Step& step, std::vector<RowTrace> trace) {
  const auto last = static_cast<uint32_t>(step.positions.size() - 1);
  Token explained{.position = step.positions.back() + 1,
                  .id = token,
                  .gate = step.gate.empty() ? 0.0f : step.gate.back(),
                  .layers = {}};
  const int64_t k = model_.config().experts_per_token;
  for (const RowTrace& row : trace) {
    if (row.row != last) continue;
    explained.gate = row.gate;
    explained.layers.push_back({.layer = row.layer,
                                .confidence = row.confidence,
                                .written = row.written,
                                .neighbours = SourcesOf(tables_, row, texts_ ? &*texts_ : nullptr),
                                .before = TopExperts(row.logits_before, k),
                                .after = TopExperts(row.logits_after, k)});
  }
  tokens_.push_back(std::move(explained));
}

nlohmann::json Explainer::Json() const {
  nlohmann::json list = nlohmann::json::array();
  for (const Token& token : tokens_) {
    nlohmann::json layers = nlohmann::json::array();
    for (const Layer& layer : token.layers) {
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
    list.push_back(
        {{"position", token.position}, {"token", token.id}, {"gate", token.gate}, {"layers", std::move(layers)}});
  }
  return list;
}

std::string Explainer::Text() const {
  std::string text;
  for (const Token& token : tokens_) {
    const std::vector<int32_t> id{token.id};
    text += fmt::format("token {:>3}  \"{}\"  gate {:.2f}\n", token.position,
                        OneLine(model_.tokenizer().Decode(id, false)), token.gate);
    size_t unmoved = 0;
    for (const Layer& layer : token.layers) {
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
