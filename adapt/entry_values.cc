#include "adapt/entry_values.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>
#include <utility>

#include "adapt/parallel.h"
#include "adapt/tensors.h"
#include "memory/layer_index.h"

namespace pointsman {
namespace {

constexpr uint32_t kMaxSearched = 1024;  // the index's own limit
constexpr int64_t kSearchBlock = 256;    // queries a task

// The best k of `found` that are of another group; absent ones keep similarity -1 and row 0.
// Returns false if fewer than k were there although the search could have gone deeper.
bool TakeOthers(std::span<const Neighbour> found, uint32_t group, std::span<const uint32_t> groups, int64_t k,
                float* similarities, int64_t* rows) {
  int64_t taken = 0;
  for (const Neighbour& n : found) {
    if (n.similarity <= -2.0f || taken == k) break;
    if (groups[n.row] == group) continue;
    similarities[taken] = n.similarity;
    rows[taken++] = n.row;
  }
  const bool complete = taken == k;
  for (; taken < k; ++taken) {
    similarities[taken] = -1.0f;
    rows[taken] = 0;
  }
  return complete;
}

}  // namespace

OwnedKeyIndex IndexOf(const LayerKeys& keys, uint32_t hidden) {
  OwnedKeyIndex index;
  index.hidden = hidden;
  index.dim = static_cast<uint32_t>(keys.keys.size(1));
  index.mean = keys.transform.mean;
  index.projection = keys.transform.projection;
  index.SetKeys(VectorOf(keys.keys));
  return index;
}

EntryValues::EntryValues(const MoeConfig& config, const EntryOptions& options)
    : config_(config), options_(options), linear_(config, options.linear) {}

Result<std::unique_ptr<EntryValues>> EntryValues::Create(const MoeConfig& config, std::span<const LayerKeys> keys,
                                                         std::span<const at::Tensor> hidden,
                                                         std::span<const uint32_t> groups,
                                                         const EntryOptions& options) {
  if (std::unordered_set<uint32_t>(groups.begin(), groups.end()).size() < 2) {
    return Error{ErrorCode::kInvalidArgument,
                 "reference text: all of it is one document or near-duplicates of one; entries are trained by leaving "
                 "one out: give at least two different documents, or use --kind prototypes"};
  }
  std::unique_ptr<EntryValues> module(new EntryValues(config, options));
  for (size_t i = 0; i < keys.size(); ++i) {
    Layer layer;
    layer.keys = IndexOf(keys[i], static_cast<uint32_t>(config.hidden_size));
    layer.values = at::zeros({keys[i].keys.size(0), config.num_experts}, at::kFloat).set_requires_grad(true);
    layer.log_tau = LeafOf(at::full({}, std::log(options.tau), at::kFloat));
    layer.log_tau2 = LeafOf(at::full({}, std::log(options.tau2), at::kFloat));
    layer.log_scale = LeafOf(at::full({}, std::log(options.scale), at::kFloat));
    module->FindNeighbours(layer, hidden[i], groups);
    module->layers_.push_back(std::move(layer));
  }
  return module;
}

void EntryValues::Rekey(std::span<const LayerKeys> keys, std::span<const at::Tensor> hidden,
                        std::span<const uint32_t> groups) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].keys = IndexOf(keys[i], static_cast<uint32_t>(config_.hidden_size));
    FindNeighbours(layers_[i], hidden[i], groups);
  }
}

void EntryValues::FindNeighbours(Layer& layer, const at::Tensor& hidden, std::span<const uint32_t> groups) const {
  const int64_t rows = hidden.size(0), width = hidden.size(1), k = options_.neighbours;
  layer.similarities = at::empty({rows, k}, at::kFloat);
  layer.neighbours = at::empty({rows, k}, at::kLong);
  const KeyIndexView view = ViewOf(layer.keys);
  const uint32_t shallow = std::min<uint32_t>(kMaxSearched, static_cast<uint32_t>(2 * k + 32));
  const int blocks = static_cast<int>((rows + kSearchBlock - 1) / kSearchBlock);
  ParallelFor(blocks, options_.threads, [&](int block) {
    const int64_t begin = block * kSearchBlock, count = std::min(kSearchBlock, rows - begin);
    const std::span<const float> queries(hidden.const_data_ptr<float>() + begin * width, count * width);
    std::vector<Neighbour> found(count * shallow), deep(kMaxSearched);
    SearchExact(view, queries, shallow, found);
    for (int64_t i = 0; i < count; ++i) {
      float* similarities = layer.similarities.data_ptr<float>() + (begin + i) * k;
      int64_t* neighbours = layer.neighbours.data_ptr<int64_t>() + (begin + i) * k;
      const uint32_t group = groups[begin + i];
      if (TakeOthers(std::span(found).subspan(i * shallow, shallow), group, groups, k, similarities, neighbours))
        continue;
      SearchExact(view, queries.subspan(i * width, width), kMaxSearched, deep);
      TakeOthers(deep, group, groups, k, similarities, neighbours);
    }
  });
}

std::vector<Parameter> EntryValues::Parameters() const {
  std::vector<Parameter> parameters;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string n = std::to_string(i);
    const Layer& l = layers_[i];
    parameters.push_back({"values" + n, l.values, options_.value_rate});
    parameters.push_back({"log_tau" + n, l.log_tau, options_.scalar_rate});
    parameters.push_back({"log_tau2" + n, l.log_tau2, options_.scalar_rate});
    parameters.push_back({"log_scale" + n, l.log_scale, options_.scalar_rate});
  }
  for (Parameter& p : linear_.Parameters()) parameters.push_back(std::move(p));
  return parameters;
}

at::Tensor EntryValues::Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const {
  const Layer& l = layers_[layer];
  const int64_t k = options_.neighbours;
  at::Tensor similarities, neighbours;
  if (training) {
    similarities = l.similarities.index_select(0, batch.rows);
    neighbours = l.neighbours.index_select(0, batch.rows);
  } else {
    const at::Tensor queries = hidden.detach().contiguous();
    std::vector<Neighbour> found(queries.size(0) * k);
    SearchExact(ViewOf(l.keys), SpanOf(queries), static_cast<uint32_t>(k), found);
    similarities = at::empty({queries.size(0), k}, at::kFloat);
    neighbours = at::empty({queries.size(0), k}, at::kLong);
    for (size_t i = 0; i < found.size(); ++i) {
      similarities.data_ptr<float>()[i] = std::max(found[i].similarity, -1.0f);
      neighbours.data_ptr<int64_t>()[i] = found[i].row;
    }
  }
  const at::Tensor weights = (similarities / l.log_tau.exp()).softmax(-1);
  const at::Tensor confidence = ((similarities.mean({-1}, /*keepdim=*/true) - 1) / l.log_tau2.exp()).exp();
  const at::Tensor scaled = weights * (confidence * l.log_scale.exp());
  const at::Tensor values = at::embedding(l.values, neighbours);  // [rows, k, E]
  const at::Tensor change = at::matmul(scaled.unsqueeze(1), values).squeeze(1);
  const at::Tensor linear = linear_.Change(layer, hidden, batch, training);
  return linear.defined() ? change + linear : change;
}

std::vector<OwnedLayer> EntryValues::Export(std::span<const EntryRef> refs) const {
  c10::AutoGradMode no_grad(false);
  std::vector<OwnedLayer> layers;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    OwnedLayer owned;
    owned.layer = static_cast<int32_t>(i);
    owned.experts = static_cast<uint32_t>(config_.num_experts);
    owned.keys = l.keys;
    owned.SetValues(VectorOf(l.values));
    owned.references.assign(refs.begin(), refs.end());
    owned.calibration = {options_.neighbours, static_cast<float>(std::exp(l.log_tau.item<float>())),
                         static_cast<float>(std::exp(l.log_tau2.item<float>())),
                         static_cast<float>(std::exp(l.log_scale.item<float>())), ConfidenceRule::kMeanSimilarity};
    ExportLinear(linear_, static_cast<int>(i), owned);
    layers.push_back(std::move(owned));
  }
  return layers;
}

}  // namespace pointsman
