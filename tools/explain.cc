#include "tools/explain.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <numeric>
#include <span>

namespace pointsman {
namespace {

constexpr size_t kNeighboursShown = 2;  // of a layer, in the text; the JSON has all

// The model's own choice: the k largest logits, ties to the lower expert.
std::vector<int64_t> TopExperts(std::span<const float> logits, int64_t k) {
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(k)));
  return order;
}

std::vector<int64_t> Without(std::vector<int64_t> experts, const std::vector<int64_t>& others) {
  std::erase_if(experts,
                [&](int64_t expert) { return std::find(others.begin(), others.end(), expert) != others.end(); });
  std::sort(experts.begin(), experts.end());
  return experts;
}

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

std::vector<Explainer::Source> Explainer::SourcesOf(const RowTrace& row) const {
  const auto layer = std::find_if(tables_.layers.begin(), tables_.layers.end(),
                                  [&](const LayerView& view) { return view.layer == row.layer; });
  std::vector<Source> sources;
  if (layer == tables_.layers.end() || layer->references.empty()) return sources;
  // A prototype explains itself by the entry that is nearest to it: the first of its list.
  const size_t stride = tables_.kind == MemoryKind::kPrototypes ? kPrototypeReferences : 1;
  for (const Neighbour& neighbour : row.neighbours) {
    const EntryRef& reference = layer->references[neighbour.row * stride];
    if (neighbour.similarity < -1.5f || reference.document == kNoDocument) continue;
    Source source{.document = tables_.documents[reference.document],
                  .position = reference.position,
                  .similarity = neighbour.similarity,
                  .excerpt = {}};
    if (texts_) source.excerpt = texts_->Around(source.document, source.position);
    sources.push_back(std::move(source));
  }
  return sources;
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
                                .neighbours = SourcesOf(row),
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
      for (const Source& source : layer.neighbours) {
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
        const Source& source = layer.neighbours[i];
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
