#include "models/row_sources.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace pointsman {

std::vector<RowSource> SourcesOf(const RoutingTables& tables, const RowTrace& row, const DocumentTexts* texts) {
  const auto layer = std::find_if(tables.layers.begin(), tables.layers.end(),
                                  [&](const LayerView& view) { return view.layer == row.layer; });
  std::vector<RowSource> sources;
  if (layer == tables.layers.end() || layer->references.empty()) return sources;
  // The nearest entry of a prototype is the first of its list.
  const size_t stride = tables.kind == MemoryKind::kPrototypes ? kPrototypeReferences : 1;
  for (const Neighbour& neighbour : row.neighbours) {
    const EntryRef& reference = layer->references[neighbour.row * stride];
    if (neighbour.similarity < -1.5f || reference.document == kNoDocument) continue;
    RowSource source{.document = tables.documents[reference.document],
                     .position = reference.position,
                     .similarity = neighbour.similarity,
                     .excerpt = {}};
    if (texts != nullptr) source.excerpt = texts->Around(source.document, source.position);
    sources.push_back(std::move(source));
  }
  return sources;
}

std::vector<int64_t> TopExperts(std::span<const float> logits, int64_t k) {
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(k)));
  return order;
}

std::vector<int64_t> Without(std::vector<int64_t> experts, std::span<const int64_t> others) {
  std::erase_if(experts,
                [&](int64_t expert) { return std::find(others.begin(), others.end(), expert) != others.end(); });
  std::sort(experts.begin(), experts.end());
  return experts;
}

}  // namespace pointsman
