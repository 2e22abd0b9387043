#include "adapt/prototypes.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "adapt/tensors.h"

namespace pointsman {
namespace {

at::Tensor Normalized(const at::Tensor& rows) { return ProjectKeys(rows, {}, {}); }

}  // namespace

Prototypes::Prototypes(const MoeConfig& config, const PrototypeOptions& options)
    : config_(config), options_(options), linear_(config, options.linear) {}

Result<std::unique_ptr<Prototypes>> Prototypes::Create(const MoeConfig& config, std::span<const LayerKeys> keys,
                                                       const PrototypeOptions& options) {
  std::unique_ptr<Prototypes> module(new Prototypes(config, options));
  module->layers_.resize(keys.size());
  for (size_t i = options.first_layer; i < keys.size(); ++i) {
    const LayerKeys& k = keys[i];
    const int64_t dim = k.keys.size(1);
    POINTSMAN_TRY(const std::vector<float> centers, SphericalKMeans(SpanOf(k.keys), static_cast<uint32_t>(dim),
                                                                    options.count, kKMeansIterations, options.seed));
    Layer& layer = module->layers_[i];
    layer.mean = TensorOf(k.transform.mean, {config.hidden_size});
    layer.projection = LeafOf(TensorOf(k.transform.projection, {dim, config.hidden_size}));
    layer.centers = LeafOf(TensorOf(centers, {options.count, dim}));
    layer.values = at::zeros({options.count, config.num_experts}, at::kFloat).set_requires_grad(true);
    layer.log_tau = LeafOf(at::full({}, std::log(options.tau), at::kFloat));
    layer.log_tau2 = LeafOf(at::full({}, std::log(options.tau2), at::kFloat));
  }
  return module;
}

std::vector<Parameter> Prototypes::Parameters() const {
  std::vector<Parameter> parameters;
  for (size_t i = options_.first_layer; i < layers_.size(); ++i) {
    const std::string n = std::to_string(i);
    const Layer& l = layers_[i];
    parameters.push_back({"values" + n, l.values, options_.value_rate});
    parameters.push_back({"centers" + n, l.centers, options_.key_rate});
    parameters.push_back({"projection" + n, l.projection, options_.projection_rate});
    parameters.push_back({"log_tau" + n, l.log_tau, options_.scalar_rate});
    parameters.push_back({"log_tau2" + n, l.log_tau2, options_.scalar_rate});
  }
  for (Parameter& p : linear_.Parameters()) parameters.push_back(std::move(p));
  return parameters;
}

at::Tensor Prototypes::Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const {
  if (layer < options_.first_layer) return {};
  const Layer& l = layers_[layer];
  const at::Tensor q = ProjectKeys(hidden, l.mean, l.projection);
  const at::Tensor similarity = at::matmul(q, Normalized(l.centers).t());
  at::Tensor scores = similarity / l.log_tau.exp();
  if (training && options_.dropout > 0) {
    const at::Generator random = at::make_generator<at::CPUGeneratorImpl>(batch.draw * 4096 + layer);
    const at::Tensor dropped = at::rand(scores.sizes(), random, scores.options()).lt(options_.dropout);
    scores = scores.masked_fill(dropped, -INFINITY);
  }
  const at::Tensor weights = scores.softmax(-1);
  const at::Tensor confidence = ((similarity.amax({-1}, /*keepdim=*/true) - 1) / l.log_tau2.exp()).exp();
  const at::Tensor change = at::matmul(weights, l.values) * confidence;
  const at::Tensor linear = linear_.Change(layer, hidden, batch, training);
  return linear.defined() ? change + linear : change;
}

OwnedLayer Prototypes::ExportLayer(int layer, const at::Tensor& hidden, std::span<const EntryRef> refs) const {
  const Layer& l = layers_[layer];
  OwnedLayer owned;
  owned.layer = layer;
  owned.experts = static_cast<uint32_t>(config_.num_experts);
  owned.keys.hidden = static_cast<uint32_t>(config_.hidden_size);
  owned.keys.dim = static_cast<uint32_t>(l.projection.size(0));
  owned.keys.mean = VectorOf(l.mean);
  owned.keys.projection = VectorOf(l.projection);
  const at::Tensor centers = Normalized(l.centers);
  owned.keys.SetKeys(VectorOf(centers));
  owned.SetValues(VectorOf(l.values));
  owned.calibration = {static_cast<int32_t>(std::min<int64_t>(options_.neighbours, l.values.size(0))),
                       static_cast<float>(std::exp(l.log_tau.item<float>())),
                       static_cast<float>(std::exp(l.log_tau2.item<float>())), 1.0f, ConfidenceRule::kMaxSimilarity};
  ExportLinear(linear_, layer, owned);
  if (!refs.empty()) {
    // Each prototype explains itself by its nearest entries, under the trained projection.
    const at::Tensor entries = ProjectKeys(hidden, l.mean, l.projection);
    const int64_t count = std::min<int64_t>(kPrototypeReferences, entries.size(0));
    const at::Tensor nearest = std::get<1>(at::matmul(centers, entries.t()).topk(count, -1)).contiguous();
    owned.references.assign(l.values.size(0) * kPrototypeReferences, EntryRef{});
    for (int64_t m = 0; m < l.values.size(0); ++m) {
      for (int64_t j = 0; j < count; ++j) {
        owned.references[m * kPrototypeReferences + j] = refs[nearest.const_data_ptr<int64_t>()[m * count + j]];
      }
    }
  }
  return owned;
}

std::vector<OwnedLayer> Prototypes::Export(std::span<const at::Tensor> hidden, std::span<const EntryRef> refs) const {
  c10::AutoGradMode no_grad(false);
  std::vector<OwnedLayer> layers;
  for (size_t i = options_.first_layer; i < layers_.size(); ++i) {
    layers.push_back(ExportLayer(static_cast<int>(i), hidden[i], refs));
  }
  return layers;
}

}  // namespace pointsman
