#include "models/families/olmoe.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "models/linear.h"
#include "models/norm.h"
#include "models/weight_memory.h"

namespace pointsman {
namespace {

// Reads tensors of one model into fp32, keeping the first error; Read is a no-op after it.
class WeightReader {
 public:
  explicit WeightReader(const SafetensorsFiles& files) : files_(files) {}

  // The file's tensor, widened, into `target` (already of the right shape).
  void ReadInto(const std::string& name, at::Tensor target) {
    if (!status_.ok()) return;
    auto view = files_.Get(name, target.sizes().vec());
    status_ = view.ok() ? CheckFinite(name, view.value()) : Status(view.error());
    if (status_.ok()) status_ = WidenToFloat(view.value(), std::span(target.data_ptr<float>(), target.numel()));
  }

  at::Tensor Read(const std::string& name, at::IntArrayRef shape) {
    at::Tensor target = NewWeights(shape);
    ReadInto(name, target);
    return target;
  }

  const SafetensorsFiles& files() const { return files_; }
  const Status& status() const { return status_; }

 private:
  const SafetensorsFiles& files_;
  Status status_;
};

AttentionWeights ReadAttention(WeightReader& reader, const MoeConfig& config, const std::string& prefix) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  AttentionWeights w;
  w.fused = NewWeights({q + 2 * kv, hidden});
  w.query = w.fused.narrow(0, 0, q);
  w.key = w.fused.narrow(0, q, kv);
  w.value = w.fused.narrow(0, q + kv, kv);
  reader.ReadInto(prefix + "q_proj.weight", w.query);
  reader.ReadInto(prefix + "k_proj.weight", w.key);
  reader.ReadInto(prefix + "v_proj.weight", w.value);
  w.output = reader.Read(prefix + "o_proj.weight", {hidden, q});
  w.query_norm = reader.Read(prefix + "q_norm.weight", {q});
  w.key_norm = reader.Read(prefix + "k_norm.weight", {kv});
  if (config.attention_bias) {
    w.query_bias = reader.Read(prefix + "q_proj.bias", {q});
    w.key_bias = reader.Read(prefix + "k_proj.bias", {kv});
    w.value_bias = reader.Read(prefix + "v_proj.bias", {kv});
    w.output_bias = reader.Read(prefix + "o_proj.bias", {hidden});
  }
  return w;
}

ExpertWeights ReadExperts(WeightReader& reader, const MoeConfig& config, const std::string& prefix) {
  const int64_t count = config.num_experts, hidden = config.hidden_size, inner = config.intermediate_size;
  ExpertWeights w;
  if (reader.files().Has(prefix + "gate_up_proj")) {
    w.gate_up = reader.Read(prefix + "gate_up_proj", {count, 2 * inner, hidden});
    w.down = reader.Read(prefix + "down_proj", {count, hidden, inner});
    return w;
  }
  w.gate_up = NewWeights({count, 2 * inner, hidden});
  w.down = NewWeights({count, hidden, inner});
  for (int64_t e = 0; e < count; ++e) {
    const std::string expert = fmt::format("{}{}.", prefix, e);
    reader.ReadInto(expert + "gate_proj.weight", w.gate_up.select(0, e).narrow(0, 0, inner));
    reader.ReadInto(expert + "up_proj.weight", w.gate_up.select(0, e).narrow(0, inner, inner));
    reader.ReadInto(expert + "down_proj.weight", w.down.select(0, e));
  }
  return w;
}

StepInfo DescribeRagged(std::span<const MoeModel::RowSegment> segments) {
  StepInfo step;
  for (const MoeModel::RowSegment& segment : segments) {
    step.slots.insert(step.slots.end(), segment.tokens.size(), segment.slot);
    step.tokens.insert(step.tokens.end(), segment.tokens.begin(), segment.tokens.end());
    for (size_t i = 0; i < segment.tokens.size(); ++i) {
      step.positions.push_back(static_cast<uint32_t>(segment.cache->length + static_cast<int64_t>(i)));
    }
    if (segment.wants_logits) step.output_rows.push_back(static_cast<uint32_t>(step.tokens.size() - 1));
  }
  return step;
}

}  // namespace

OlmoeModel::OlmoeModel(MoeConfig config, std::shared_ptr<const Tokenizer> tokenizer, Fingerprint fingerprint)
    : config_(std::move(config)),
      tokenizer_(std::move(tokenizer)),
      fingerprint_(std::move(fingerprint)),
      rope_(MakeRopeTables(config_.max_positions, config_.head_dim, config_.rope_theta)),
      layers_(config_.num_layers) {}

Result<std::unique_ptr<MoeModel>> OlmoeModel::Create(MoeConfig config, const SafetensorsFiles& files,
                                                     std::shared_ptr<const Tokenizer> tokenizer,
                                                     Fingerprint fingerprint) {
  std::unique_ptr<OlmoeModel> model(new OlmoeModel(std::move(config), std::move(tokenizer), std::move(fingerprint)));
  const MoeConfig& c = model->config_;
  WeightReader reader(files);
  model->embedding_ = reader.Read("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  model->final_norm_ = reader.Read("model.norm.weight", {c.hidden_size});
  model->output_ =
      c.tie_word_embeddings ? model->embedding_ : reader.Read("lm_head.weight", {c.vocab_size, c.hidden_size});
  for (int64_t i = 0; i < c.num_layers && reader.status().ok(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    Layer& layer = model->layers_[i];
    layer.input_norm = reader.Read(prefix + "input_layernorm.weight", {c.hidden_size});
    layer.post_attention_norm = reader.Read(prefix + "post_attention_layernorm.weight", {c.hidden_size});
    layer.attention = ReadAttention(reader, c, prefix + "self_attn.");
    layer.router = reader.Read(prefix + "mlp.gate.weight", {c.num_experts, c.hidden_size});
    layer.experts = ReadExperts(reader, c, prefix + "mlp.experts.");
  }
  POINTSMAN_CHECK_OK(reader.status());
  return std::unique_ptr<MoeModel>(std::move(model));
}

std::unique_ptr<OlmoeModel> OlmoeModel::CreateRandom(MoeConfig config, uint64_t seed) {
  std::unique_ptr<OlmoeModel> model(new OlmoeModel(std::move(config), nullptr, {}));
  const MoeConfig& c = model->config_;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  // Rows of length near 1 over their inputs, so that activations keep their size through the layers.
  const auto matrix = [&](at::IntArrayRef shape) {
    const double radius = std::sqrt(3.0 / static_cast<double>(shape.back()));
    return at::empty(shape, at::kFloat).uniform_(-radius, radius, generator);
  };
  const int64_t hidden = c.hidden_size, q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  model->embedding_ = matrix({c.vocab_size, hidden});
  model->final_norm_ = at::ones({hidden}, at::kFloat);
  model->output_ = c.tie_word_embeddings ? model->embedding_ : matrix({c.vocab_size, hidden});
  Layer layer;
  layer.input_norm = layer.post_attention_norm = model->final_norm_;
  layer.attention.fused = matrix({q + 2 * kv, hidden});
  layer.attention.query = layer.attention.fused.narrow(0, 0, q);
  layer.attention.key = layer.attention.fused.narrow(0, q, kv);
  layer.attention.value = layer.attention.fused.narrow(0, q + kv, kv);
  layer.attention.output = matrix({hidden, q});
  layer.attention.query_norm = at::ones({q}, at::kFloat);
  layer.attention.key_norm = at::ones({kv}, at::kFloat);
  layer.router = matrix({c.num_experts, hidden});
  layer.experts.gate_up = matrix({c.num_experts, 2 * c.intermediate_size, hidden});
  layer.experts.down = matrix({c.num_experts, hidden, c.intermediate_size});
  std::fill(model->layers_.begin(), model->layers_.end(), layer);
  return model;
}

at::Tensor OlmoeModel::Forward(const at::Tensor& ids, const ForwardOptions& options) const {
  const Cut first = ForwardTo(0, ids, options);
  return ForwardFrom(first, first.logits, options);
}

MoeModel::Cut OlmoeModel::ForwardTo(int layer, const at::Tensor& ids, const ForwardOptions& options) const {
  const int64_t batch = ids.size(0), past = options.cache ? options.cache->length : 0;
  if (options.hook) options.hook->BeginStep(DescribeStep(ids, options.slots, past));
  const AttentionBlock block{.sequences = batch, .length = ids.size(1), .past = past, .cache = options.cache};
  Cut cut = RouteLayer(0, at::embedding(embedding_, ids.flatten()), {&block, 1}, options.hook);
  while (cut.layer < layer) cut = RouteLayer(cut.layer + 1, AddExperts(cut, cut.logits), {&block, 1}, options.hook);
  cut.batch = batch;
  cut.past = past;
  return cut;
}

at::Tensor OlmoeModel::ForwardFrom(const Cut& from, const at::Tensor& logits, const ForwardOptions& options) const {
  const int64_t length = from.residual.size(0) / from.batch;
  const AttentionBlock block{.sequences = from.batch, .length = length, .past = from.past, .cache = options.cache};
  at::Tensor rows = RunFrom(from, logits, {&block, 1}, options.hook);
  if (options.cache) options.cache->length = from.past + length;
  const int64_t shown = options.last_only ? 1 : length;
  if (shown < length) rows = rows.view({from.batch, length, -1}).select(1, length - 1).contiguous();
  return Output(rows, options.hook).view({from.batch, shown, config_.vocab_size});
}

at::Tensor OlmoeModel::ForwardRows(std::span<const RowSegment> segments, RoutingHook* hook) const {
  const at::NoGradGuard no_grad;
  const StepInfo step = DescribeRagged(segments);
  const auto count = static_cast<int64_t>(step.tokens.size());
  std::vector<AttentionBlock> blocks;
  for (const RowSegment& segment : segments) {
    blocks.push_back({.sequences = 1,
                      .length = static_cast<int64_t>(segment.tokens.size()),
                      .past = segment.cache->length,
                      .cache = segment.cache});
  }
  at::Tensor ids = at::empty({count}, at::kLong);
  std::ranges::copy(step.tokens, ids.data_ptr<int64_t>());
  if (hook) hook->BeginStep(step);
  const Cut first = RouteLayer(0, at::embedding(embedding_, ids), blocks, hook);
  at::Tensor rows = RunFrom(first, first.logits, blocks, hook);
  if (const auto wanted = static_cast<int64_t>(step.output_rows.size()); wanted < count) {
    at::Tensor index = at::empty({wanted}, at::kLong);
    std::ranges::copy(step.output_rows, index.data_ptr<int64_t>());
    rows = rows.index_select(0, index);
  }
  const at::Tensor logits =
      step.output_rows.empty() ? at::empty({0, config_.vocab_size}, at::kFloat) : Output(rows, hook);
  for (const AttentionBlock& block : blocks) block.cache->length += block.length;
  return logits;
}

at::Tensor OlmoeModel::RunFrom(const Cut& from, const at::Tensor& logits, std::span<const AttentionBlock> blocks,
                               RoutingHook* hook) const {
  at::Tensor x = AddExperts(from, logits);
  for (int i = from.layer + 1; i < static_cast<int>(layers_.size()); ++i) {
    const Cut cut = RouteLayer(i, x, blocks, hook);
    x = AddExperts(cut, cut.logits);
  }
  return x;
}

at::Tensor OlmoeModel::Output(const at::Tensor& rows, RoutingHook* hook) const {
  const at::Tensor normed = RmsNorm(rows, final_norm_, config_.rms_norm_eps);
  const at::Tensor output = Linear(normed, output_);
  return hook ? hook->Output(normed, output).contiguous() : output;
}

MoeModel::Cut OlmoeModel::RouteLayer(int index, const at::Tensor& x, std::span<const AttentionBlock> blocks,
                                     RoutingHook* hook) const {
  const Layer& layer = layers_[index];
  const at::Tensor normed = RmsNorm(x, layer.input_norm, config_.rms_norm_eps);
  Cut cut;
  cut.layer = index;
  cut.residual = x + Attention(layer.attention, config_, rope_, normed, blocks, index);
  cut.hidden = RmsNorm(cut.residual, layer.post_attention_norm, config_.rms_norm_eps);
  cut.logits = Linear(cut.hidden, layer.router);
  if (hook) cut.logits = hook->Route(index, cut.hidden, cut.logits).contiguous();
  return cut;
}

at::Tensor OlmoeModel::AddExperts(const Cut& cut, const at::Tensor& logits) const {
  return cut.residual +
         MixExperts(cut.hidden, logits, layers_[cut.layer].experts, config_.experts_per_token, config_.norm_topk_prob);
}

template <typename Self, typename Visit>
void OlmoeModel::VisitWeights(Self& self, Visit visit) {
  visit("model.embed_tokens.weight", self.embedding_);
  for (size_t i = 0; i < self.layers_.size(); ++i) {
    auto& layer = self.layers_[i];
    const std::string prefix = fmt::format("model.layers.{}.", i), attention = prefix + "self_attn.";
    auto& a = layer.attention;
    visit(prefix + "input_layernorm.weight", layer.input_norm);
    visit(attention + "q_proj.weight", a.query);
    visit(attention + "k_proj.weight", a.key);
    visit(attention + "v_proj.weight", a.value);
    visit(attention + "o_proj.weight", a.output);
    visit(attention + "q_norm.weight", a.query_norm);
    visit(attention + "k_norm.weight", a.key_norm);
    if (a.query_bias.defined()) {
      visit(attention + "q_proj.bias", a.query_bias);
      visit(attention + "k_proj.bias", a.key_bias);
      visit(attention + "v_proj.bias", a.value_bias);
      visit(attention + "o_proj.bias", a.output_bias);
    }
    visit(prefix + "post_attention_layernorm.weight", layer.post_attention_norm);
    visit(prefix + "mlp.gate.weight", layer.router);
    visit(prefix + "mlp.experts.gate_up_proj", layer.experts.gate_up);
    visit(prefix + "mlp.experts.down_proj", layer.experts.down);
  }
  visit("model.norm.weight", self.final_norm_);
  if (!self.config_.tie_word_embeddings) visit("lm_head.weight", self.output_);
}

std::vector<std::pair<std::string, at::Tensor>> OlmoeModel::Weights() const {
  std::vector<std::pair<std::string, at::Tensor>> weights;
  VisitWeights(*this, [&](const std::string& name, const at::Tensor& tensor) { weights.emplace_back(name, tensor); });
  return weights;
}

std::unique_ptr<MoeModel> OlmoeModel::CloneWithTrainableWeights() const {
  std::unique_ptr<OlmoeModel> clone(new OlmoeModel(config_, tokenizer_, fingerprint_));
  clone->embedding_ = embedding_;
  clone->final_norm_ = final_norm_;
  clone->output_ = output_;
  clone->layers_ = layers_;
  VisitWeights(*clone, [](const std::string&, at::Tensor& tensor) {
    tensor = tensor.detach().clone(at::MemoryFormat::Contiguous).set_requires_grad(true);
  });
  if (config_.tie_word_embeddings) clone->output_ = clone->embedding_;
  for (Layer& layer : clone->layers_) layer.attention.fused = at::Tensor();  // query, key and value are leaves now
  return clone;
}

KvCache OlmoeModel::NewCache(int64_t batch) const {
  KvCache cache;
  cache.capacity = config_.max_positions;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    // Not zeroed: pages cost memory only once a position is written.
    cache.keys.push_back(at::empty({batch, config_.num_kv_heads, cache.capacity, config_.head_dim}, at::kFloat));
    cache.values.push_back(at::empty_like(cache.keys.back()));
  }
  return cache;
}

}  // namespace pointsman
