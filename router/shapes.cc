#include "router/shapes.h"

#include <fmt/format.h>

#include <algorithm>

namespace pointsman {
namespace {

std::string Place(int32_t layer) { return layer == kOutputLayer ? "output" : fmt::format("layer {}", layer); }

Error Mismatch(int32_t layer, const std::string& what) {
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("{}: {}; bind a memory that was built for this model", Place(layer), what)};
}

Status CheckKeys(const KeyIndexView& keys, const CallShape& shape, const char* name) {
  if (keys.hidden != shape.hidden) {
    return Mismatch(shape.layer,
                    fmt::format("hidden size is {}, the memory's {} have {}", shape.hidden, name, keys.hidden));
  }
  const uint64_t projected = keys.projection.empty() ? keys.hidden : keys.dim;
  const bool sound = keys.codes.size() == keys.rows * keys.dim && keys.code_scales.size() == keys.rows &&
                     (keys.mean.empty() || keys.mean.size() == keys.hidden) && projected == keys.dim &&
                     (keys.projection.empty() || keys.projection.size() == uint64_t{keys.dim} * keys.hidden);
  if (!sound)
    return Mismatch(shape.layer, fmt::format("the arrays of the memory's {} have inconsistent lengths", name));
  return {};
}

Status CheckLayer(const LayerView& view, ValueKind kind, const CallShape& shape) {
  POINTSMAN_CHECK_OK(CheckKeys(view.keys, shape, "keys"));
  if (view.experts != shape.experts) {
    return Mismatch(shape.layer, fmt::format("{} experts, the memory has {}", shape.experts, view.experts));
  }
  const uint64_t table = uint64_t{view.token_table_scales.size()} * view.experts;
  const bool sound = view.values.size() == view.keys.rows * view.experts &&
                     view.value_scales.size() == view.keys.rows &&
                     (view.router_delta.empty() || view.router_delta.size() == shape.hidden * shape.experts) &&
                     view.token_table.size() == table &&
                     (view.token_ids.empty() || view.token_ids.size() == view.token_table_scales.size());
  if (!sound) return Mismatch(shape.layer, "the arrays of the memory's values have inconsistent lengths");
  if (kind != ValueKind::kDelta && !(view.router_delta.empty() && view.token_table.empty())) {
    return Mismatch(shape.layer, "router delta and token table need the value kind delta");
  }
  return {};
}

}  // namespace

Result<CallShape> MakeCallShape(int32_t layer, size_t rows, size_t hidden_size, size_t logits_size) {
  if (rows == 0 ? hidden_size + logits_size != 0 : hidden_size % rows + logits_size % rows != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}: {} hidden values and {} logits are not {} equal rows; pass the step's rows",
                             Place(layer), hidden_size, logits_size, rows)};
  }
  if (rows == 0) return CallShape{.layer = layer};
  return CallShape{.layer = layer, .rows = rows, .hidden = hidden_size / rows, .experts = logits_size / rows};
}

const LayerView* FindLayer(const RoutingTables& tables, int32_t layer) {
  const auto found = std::lower_bound(tables.layers.begin(), tables.layers.end(), layer,
                                      [](const LayerView& view, int32_t wanted) { return view.layer < wanted; });
  return found != tables.layers.end() && found->layer == layer ? &*found : nullptr;
}

std::span<const float> SessionVector(const SessionVectors* session, int32_t layer) {
  if (session == nullptr || layer < 0 || static_cast<size_t>(layer) >= session->by_layer.size()) return {};
  return session->by_layer[layer];
}

Status CheckTablesFit(const RoutingTables& tables, const CallShape& shape) {
  const LayerView* view = FindLayer(tables, shape.layer);
  return view == nullptr ? Status() : CheckLayer(*view, tables.value_kind, shape);
}

Status CheckOutputFits(const OutputView& output, const CallShape& shape) {
  if (shape.rows == 0) return {};
  POINTSMAN_CHECK_OK(CheckKeys(output.keys, shape, "output keys"));
  if (output.vocabulary != shape.experts) {
    return Mismatch(shape.layer,
                    fmt::format("{} logits, the memory's vocabulary has {} tokens", shape.experts, output.vocabulary));
  }
  const bool sound = output.next_tokens.size() == output.keys.rows;
  return sound ? Status() : Mismatch(shape.layer, "the memory's next tokens are not one a key");
}

Status CheckSessionFits(const SessionVectors* session, const CallShape& shape) {
  const auto vector = SessionVector(session, shape.layer);
  if (vector.empty() || vector.size() == shape.experts) return {};
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("layer {}: {} experts, the session's vector has {}; bind a session of this model",
                           shape.layer, shape.experts, vector.size())};
}

}  // namespace pointsman
