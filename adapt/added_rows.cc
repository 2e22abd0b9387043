#include "adapt/added_rows.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <string>
#include <utility>

#include "adapt/capture.h"
#include "adapt/parallel.h"
#include "adapt/prototypes.h"
#include "adapt/tensors.h"
#include "memory/layer_index.h"
#include "router/confidence.h"

namespace pointsman {
namespace {

constexpr uint32_t kMaxSearched = 1024;  // the index's own limit
constexpr int64_t kSearchBlock = 256;    // queries a task

at::Tensor Optional(std::span<const float> values, at::IntArrayRef shape) {
  return values.empty() ? at::Tensor() : TensorOf(values, shape);
}

// code * scale, [R, columns].
at::Tensor Dequantized(std::span<const int8_t> codes, std::span<const float> scales, int64_t columns) {
  const auto rows = static_cast<int64_t>(scales.size());
  const at::Tensor whole = at::from_blob(const_cast<int8_t*>(codes.data()), {rows, columns}, at::kChar);
  return whole.to(at::kFloat) * TensorOf(scales, {rows, 1});
}

at::Tensor Normalized(const at::Tensor& rows) { return ProjectKeys(rows, {}, {}); }

// The old keys with the new ones behind them, as one index.
OwnedKeyIndex Joined(const KeyIndexView& old, const at::Tensor& keys) {
  OwnedKeyIndex added;
  added.dim = old.dim;
  added.SetKeys(VectorOf(keys));
  OwnedKeyIndex joined{.hidden = old.hidden,
                       .dim = old.dim,
                       .mean = {old.mean.begin(), old.mean.end()},
                       .projection = {old.projection.begin(), old.projection.end()},
                       .codes = {old.codes.begin(), old.codes.end()},
                       .code_scales = {old.code_scales.begin(), old.code_scales.end()}};
  joined.codes.insert(joined.codes.end(), added.codes.begin(), added.codes.end());
  joined.code_scales.insert(joined.code_scales.end(), added.code_scales.begin(), added.code_scales.end());
  return joined;
}

}  // namespace

Result<std::unique_ptr<AddedRows>> AddedRows::Create(std::shared_ptr<const RoutingTables> tables,
                                                     std::span<const at::Tensor> hidden,
                                                     std::span<const uint32_t> groups,
                                                     const AddedRowsOptions& options) {
  if (tables->value_kind != ValueKind::kDelta) {
    return Error{ErrorCode::kUnsupported,
                 "the memory's values are not changes of router logits (--blend), which alone can be trained for new "
                 "documents; build it again with them"};
  }
  c10::AutoGradMode no_grad(false);
  std::unique_ptr<AddedRows> rows(new AddedRows(std::move(tables), options));
  for (const LayerView& view : rows->tables_->layers) {
    Layer layer;
    layer.view = &view;
    const int64_t h = view.keys.hidden, d = view.keys.dim, e = view.experts;
    layer.mean = Optional(view.keys.mean, {h});
    layer.projection = Optional(view.keys.projection, {d, h});
    layer.router_delta = Optional(view.router_delta, {e, h});
    if (!view.token_table.empty()) {
      const at::Tensor table = Dequantized(view.token_table, view.token_table_scales, e);
      layer.token_table = at::cat({table, at::zeros({1, e}, at::kFloat)}, 0);
      if (!view.token_ids.empty()) {
        const std::vector<int64_t> ids(view.token_ids.begin(), view.token_ids.end());
        layer.token_ids = at::tensor(ids, at::kLong);
      }
    }
    const at::Tensor& inputs = hidden[view.layer];
    layer.keys = ProjectKeys(inputs, layer.mean, layer.projection);
    if (rows->tables_->kind == MemoryKind::kPrototypes) {
      POINTSMAN_CHECK_OK(rows->AddPrototypes(layer));
    } else {
      rows->AddEntries(layer, inputs, groups);
    }
    rows->layers_.push_back(std::move(layer));
  }
  return rows;
}

Status AddedRows::AddPrototypes(Layer& layer) const {
  const LayerView& view = *layer.view;
  const int64_t count = std::min<int64_t>(options_.prototypes, layer.keys.size(0));
  POINTSMAN_TRY(const std::vector<float> centers,
                SphericalKMeans(SpanOf(layer.keys), view.keys.dim, static_cast<uint32_t>(count), kKMeansIterations,
                                options_.seed));
  layer.centers = LeafOf(TensorOf(centers, {count, layer.keys.size(1)}));
  layer.values = at::zeros({count, static_cast<int64_t>(view.experts)}, at::kFloat).set_requires_grad(true);
  layer.old_keys = Normalized(Dequantized(view.keys.codes, view.keys.code_scales, view.keys.dim));
  layer.old_values = Dequantized(view.values, view.value_scales, view.experts);
  return {};
}

// Keys do not move, so every token's neighbours, their weights and what the old ones say are found once.
void AddedRows::AddEntries(Layer& layer, const at::Tensor& hidden, std::span<const uint32_t> groups) const {
  const LayerView& view = *layer.view;
  const auto old = static_cast<int64_t>(view.keys.rows);
  const int64_t rows = hidden.size(0), width = hidden.size(1), k = view.calibration.k, experts = view.experts;
  layer.values = at::zeros({rows, experts}, at::kFloat).set_requires_grad(true);
  layer.old_change = at::zeros({rows, experts}, at::kFloat);
  layer.weights = at::zeros({rows, k}, at::kFloat);
  layer.neighbours = at::zeros({rows, k}, at::kLong);
  const OwnedKeyIndex joined = Joined(view.keys, layer.keys);
  const KeyIndexView index = ViewOf(joined);
  const LayerCalibration& calibration = view.calibration;
  ParallelFor(static_cast<int>((rows + kSearchBlock - 1) / kSearchBlock), options_.threads, [&](int block) {
    const int64_t begin = block * kSearchBlock, count = std::min(kSearchBlock, rows - begin);
    std::vector<Neighbour> found(count * kMaxSearched), taken;
    std::vector<float> weights(k);
    SearchExact(index, SpanOf(hidden).subspan(begin * width, count * width), kMaxSearched, found);
    for (int64_t row = begin; row < begin + count; ++row) {
      taken.clear();
      for (const Neighbour& n : FoundNeighbours(std::span(found).subspan((row - begin) * kMaxSearched, kMaxSearched))) {
        const bool own = n.row >= old && groups[n.row - old] == groups[row];
        if (!own) taken.push_back(n);
        if (static_cast<int64_t>(taken.size()) == k) break;
      }
      NeighbourWeights(taken, calibration.tau, std::span(weights).first(taken.size()));
      const float g = Confidence(calibration.confidence, calibration.tau2, taken) * calibration.scale;
      float* old_change = layer.old_change.data_ptr<float>() + row * experts;
      for (size_t j = 0; j < taken.size(); ++j) {
        const int64_t other = taken[j].row;
        if (other >= old) {
          layer.weights.data_ptr<float>()[row * k + static_cast<int64_t>(j)] = g * weights[j];
          layer.neighbours.data_ptr<int64_t>()[row * k + static_cast<int64_t>(j)] = other - old;
          continue;
        }
        const float step = g * weights[j] * view.value_scales[other];
        for (int64_t e = 0; e < experts; ++e) {
          old_change[e] += step * static_cast<float>(view.values[other * experts + e]);
        }
      }
    }
  });
}

std::vector<Parameter> AddedRows::Parameters() const {
  std::vector<Parameter> parameters;
  for (const Layer& layer : layers_) {
    const std::string n = std::to_string(layer.view->layer);
    parameters.push_back({"values" + n, layer.values, options_.value_rate});
    if (layer.centers.defined()) parameters.push_back({"centers" + n, layer.centers, options_.key_rate});
  }
  return parameters;
}

// As Prototypes::Change, the softmax over old and new ones alike.
at::Tensor AddedRows::PrototypeChange(const Layer& layer, const at::Tensor& hidden) const {
  const LayerCalibration& calibration = layer.view->calibration;
  const at::Tensor q = ProjectKeys(hidden, layer.mean, layer.projection);
  const at::Tensor similarity =
      at::cat({at::matmul(q, layer.old_keys.t()), at::matmul(q, Normalized(layer.centers).t())}, -1);
  const at::Tensor weights = (similarity / calibration.tau).softmax(-1);
  const at::Tensor confidence = ((similarity.amax({-1}, /*keepdim=*/true) - 1) / calibration.tau2).exp();
  return at::matmul(weights, at::cat({layer.old_values, layer.values}, 0)) * confidence * calibration.scale;
}

at::Tensor AddedRows::Change(int layer_number, const at::Tensor& hidden, const Batch& batch, bool) const {
  const auto found = std::find_if(layers_.begin(), layers_.end(),
                                  [&](const Layer& layer) { return layer.view->layer == layer_number; });
  if (found == layers_.end()) return {};
  const Layer& layer = *found;
  at::Tensor change;
  if (layer.centers.defined()) {
    change = PrototypeChange(layer, hidden);
  } else {
    const at::Tensor weights = layer.weights.index_select(0, batch.rows);
    const at::Tensor values =
        at::embedding(layer.values, layer.neighbours.index_select(0, batch.rows));  // [rows, k, E]
    change = layer.old_change.index_select(0, batch.rows) + at::matmul(weights.unsqueeze(1), values).squeeze(1);
  }
  if (layer.router_delta.defined()) change = change + at::matmul(hidden, layer.router_delta.t());
  if (layer.token_table.defined()) change = change + at::embedding(layer.token_table, TokenRows(layer, batch));
  return change;
}

at::Tensor AddedRows::TokenRows(const Layer& layer, const Batch& batch) {
  const at::Tensor ids = batch.ids.view({-1});
  const int64_t none = layer.token_table.size(0) - 1;
  if (!layer.token_ids.defined()) return ids.clamp_max(none);
  const at::Tensor rows = at::searchsorted(layer.token_ids, ids).clamp_max(none - 1);
  return at::where(layer.token_ids.index_select(0, rows) == ids, rows, none);
}

void AddedRows::SetEntryValues(std::span<const at::Tensor> by_layer) {
  c10::AutoGradMode no_grad(false);
  for (Layer& layer : layers_) layer.values.copy_(by_layer[layer.view->layer] / layer.view->calibration.scale);
}

std::vector<OwnedLayer> AddedRows::Export(std::span<const EntryRef> refs) const {
  c10::AutoGradMode no_grad(false);
  std::vector<OwnedLayer> layers;
  for (const Layer& layer : layers_) {
    OwnedLayer owned;
    owned.layer = layer.view->layer;
    owned.experts = layer.view->experts;
    owned.keys.hidden = layer.view->keys.hidden;
    owned.keys.dim = layer.view->keys.dim;
    const at::Tensor keys = layer.centers.defined() ? Normalized(layer.centers) : layer.keys;
    owned.keys.SetKeys(VectorOf(keys));
    owned.SetValues(VectorOf(layer.values));
    if (!layer.centers.defined()) {
      owned.references.assign(refs.begin(), refs.end());
    } else {
      const int64_t count = std::min<int64_t>(kPrototypeReferences, layer.keys.size(0));
      const at::Tensor nearest = std::get<1>(at::matmul(keys, layer.keys.t()).topk(count, -1)).contiguous();
      owned.references.assign(keys.size(0) * kPrototypeReferences, EntryRef{});
      for (int64_t m = 0; m < keys.size(0); ++m) {
        for (int64_t j = 0; j < count; ++j) {
          owned.references[m * kPrototypeReferences + j] = refs[nearest.const_data_ptr<int64_t>()[m * count + j]];
        }
      }
    }
    layers.push_back(std::move(owned));
  }
  return layers;
}

}  // namespace pointsman
