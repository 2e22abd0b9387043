#include "indexer/evaluation/c3po.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "adapt/capture.h"
#include "adapt/parallel.h"
#include "adapt/tensors.h"
#include "indexer/evaluation/row_gate.h"

namespace pointsman {
namespace {

constexpr double kDecays[] = {0, 0.5, 0.9, 1};
constexpr double kOwn[] = {0.1, 0.25, 0.5, 0.75, 0.9, 1};
constexpr double kSigmas[] = {0.25, 0.5, 1};
constexpr double kLeast = 1e-9;       // probability below which a logarithm says nothing
constexpr int64_t kSearchRows = 256;  // queries a product: 256 x 100,000 references are 100 MB

// Keeps the router inputs of one layer and changes nothing.
class InputOf : public RoutingHook {
 public:
  explicit InputOf(int layer) : layer_(layer) {}
  void BeginStep(const StepInfo&) override {}
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    if (layer == layer_) hidden_ = hidden.contiguous().clone();
    return logits;
  }
  const at::Tensor& hidden() const { return hidden_; }

 private:
  int layer_;
  at::Tensor hidden_;
};

struct Found {
  at::Tensor rows;     // [N * k] int64
  at::Tensor weights;  // [N, k, 1], sum 1
};

Found Search(const at::Tensor& queries, const at::Tensor& keys, int64_t k, double sigma) {
  std::vector<at::Tensor> similarities, rows;
  for (int64_t begin = 0; begin < queries.size(0); begin += kSearchRows) {
    const at::Tensor part = queries.narrow(0, begin, std::min(kSearchRows, queries.size(0) - begin));
    const auto [best, index] = at::matmul(part, keys.t()).topk(k, 1);
    similarities.push_back(best);
    rows.push_back(index);
  }
  // exp(-|a - b|^2 / 2 sigma^2) of unit vectors = exp((cos - 1) / sigma^2); the constant leaves the softmax alone.
  const at::Tensor weights = (at::cat(similarities) / (sigma * sigma)).softmax(1);
  return {at::cat(rows).view({-1}), weights.unsqueeze(2)};
}

class RegressionHook : public RoutingHook {
 public:
  RegressionHook(const std::vector<at::Tensor>& routing, Found found, double own, int64_t experts,
                 std::shared_ptr<const OwnedGate> gate)
      : routing_(routing), found_(std::move(found)), own_(own), experts_(experts), gate_(std::move(gate)) {}
  void BeginStep(const StepInfo& step) override {
    if (!gate_) return;
    const std::vector<float> open = GateOfRows(ViewOf(*gate_), step);
    open_ = TensorOf(open, {static_cast<int64_t>(open.size()), 1});
  }
  at::Tensor Route(int layer, const at::Tensor&, const at::Tensor& logits) override {
    if (!routing_[layer].defined() || own_ >= 1) return logits;
    const int64_t rows = logits.size(0), experts = logits.size(1);
    const at::Tensor votes = routing_[layer].index_select(0, found_.rows).to(at::kFloat).view({rows, -1, experts});
    const at::Tensor own = gate_ ? 1 - open_ * (1 - own_) : at::full({1, 1}, own_);
    const at::Tensor mixed = C3po::Mix(logits.softmax(1), (votes * found_.weights).sum(1), own, experts_);
    const at::Tensor changed = mixed.clamp_min(kLeast).log();
    return gate_ ? at::where(open_ > 0, changed, logits) : changed;
  }

 private:
  const std::vector<at::Tensor>& routing_;
  Found found_;
  double own_;
  int64_t experts_;
  std::shared_ptr<const OwnedGate> gate_;
  at::Tensor open_;  // [rows, 1]
};

// Rows of the reference text whose next token is the frozen model's first choice.
at::Tensor CorrectRows(const MoeModel& model, std::span<const Sequence> sequences, int threads) {
  const auto plan = PlanBatches(sequences, 8, /*seed=*/0);
  std::vector<std::vector<int64_t>> of_batch(plan.size());
  ParallelFor(static_cast<int>(plan.size()), threads, [&](int i) {
    c10::AutoGradMode no_grad(false);
    const Batch batch = MakeBatch(sequences, plan[i]);
    const at::Tensor first = model.Forward(batch.ids, {}).argmax(-1);
    const at::Tensor correct = first.eq(batch.targets).logical_and(batch.weights > 0).contiguous();
    const bool* flags = correct.const_data_ptr<bool>();
    const int64_t length = correct.size(1);
    for (size_t b = 0; b < batch.members.size(); ++b) {
      const Sequence& s = sequences[batch.members[b]];
      for (size_t t = 0; t < s.inputs.size(); ++t) {
        if (flags[b * length + t]) of_batch[i].push_back(static_cast<int64_t>(s.first_row + t));
      }
    }
  });
  std::vector<int64_t> rows;
  for (const auto& part : of_batch) rows.insert(rows.end(), part.begin(), part.end());
  std::sort(rows.begin(), rows.end());
  return at::tensor(rows, at::kLong);
}

}  // namespace

at::Tensor C3po::Embed(const at::Tensor& keys, int64_t length, double decay) {
  const at::Tensor from = keys.contiguous();
  at::Tensor to = at::empty_like(from);
  const int64_t rows = from.size(0), width = from.size(1);
  std::vector<double> sum(width);
  for (int64_t row = 0; row < rows; ++row) {
    const float* key = from.const_data_ptr<float>() + row * width;
    float* out = to.data_ptr<float>() + row * width;
    if (row % length == 0) std::fill(sum.begin(), sum.end(), 0.0);
    double squares = 0;
    for (int64_t d = 0; d < width; ++d) {
      sum[d] = decay * sum[d] + key[d];
      squares += sum[d] * sum[d];
    }
    const double scale = 1 / std::max(std::sqrt(squares), 1e-12);
    for (int64_t d = 0; d < width; ++d) out[d] = static_cast<float>(sum[d] * scale);
  }
  return to;
}

at::Tensor C3po::Mix(const at::Tensor& p, const at::Tensor& p_hat, const at::Tensor& own, int64_t experts) {
  const auto [mine, index] = p.topk(experts, 1);
  const at::Tensor theirs = p_hat.gather(1, index);
  const at::Tensor share = theirs / theirs.sum({1}, /*keepdim=*/true).clamp_min(kLeast);
  const at::Tensor mixed = own * mine + (1 - own) * mine.sum({1}, /*keepdim=*/true) * share;
  return p.scatter(1, index, mixed);
}

void C3po::SetReferenceKeys(double decay) {
  if (keys_decay_ == decay) return;
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t length : lengths_) {
    parts.push_back(Embed(all_keys_.narrow(0, begin, length), length, decay));
    begin += length;
  }
  keys_ = at::cat(parts).index_select(0, correct_).to(at::kHalf).to(at::kFloat);  // as precise as what bytes() counts
  keys_decay_ = decay;
}

HookFactory C3po::Hooks(const C3poSetting& setting, std::shared_ptr<const OwnedGate> gate) const {
  return [this, setting, gate](const Batch& batch, std::vector<uint32_t>*) -> std::unique_ptr<RoutingHook> {
    const MoeConfig& config = model_.config();
    InputOf last(static_cast<int>(config.num_layers - 1));
    MoeModel::ForwardOptions frozen;
    frozen.hook = &last;
    frozen.last_only = true;
    model_.Forward(batch.ids, frozen);
    const int64_t length = batch.ids.size(1), k = std::min<int64_t>(options_.neighbours, keys_.size(0));
    const at::Tensor queries = Embed(ProjectKeys(last.hidden(), mean_, projection_), length, setting.decay);
    const auto favorites =
        static_cast<int64_t>(std::ceil(options_.expert_share * static_cast<double>(config.num_experts)));
    const int64_t experts = std::min(config.num_experts, std::max(favorites, config.experts_per_token + 1));
    return std::make_unique<RegressionHook>(routing_, Search(queries, keys_, k, setting.sigma), setting.own, experts,
                                            gate);
  };
}

double C3po::bytes() const {
  double bytes = static_cast<double>(keys_.numel()) * 2;
  for (const at::Tensor& layer : routing_) {
    if (layer.defined()) bytes += static_cast<double>(layer.numel()) * 2;
  }
  return bytes + static_cast<double>(mean_.numel() + projection_.numel()) * sizeof(float);
}

double C3po::CalibrationNll(const ReferenceSet& set, const C3poSetting& setting) {
  SetReferenceKeys(setting.decay);
  return MeanNll(set.calibration,
                 ScoreSequences(model_, set.calibration, Hooks(setting, nullptr), {.threads = options_.threads}));
}

Status C3po::Choose(const ReferenceSet& set, const std::function<void(const std::string& line)>& say) {
  double best = CalibrationNll(set, setting_);
  const auto try_all = [&](double C3poSetting::*member, std::span<const double> values, const char* name) {
    std::string line = fmt::format("c3po: calibration loss by {}:", name);
    C3poSetting winner = setting_;
    for (const double value : values) {
      C3poSetting tried = setting_;
      tried.*member = value;
      const double loss = CalibrationNll(set, tried);
      line += fmt::format(" {:g} {:.4f}", value, loss);
      if (loss < best) {
        best = loss;
        winner = tried;
      }
    }
    setting_ = winner;
    if (say) say(line);
  };
  try_all(&C3poSetting::decay, kDecays, "decay of the text's mean");
  try_all(&C3poSetting::own, kOwn, "share of its own routing");
  try_all(&C3poSetting::sigma, kSigmas, "kernel width");
  SetReferenceKeys(setting_.decay);
  return {};
}

Result<std::unique_ptr<C3po>> C3po::Create(const MoeModel& model, const ReferenceSet& set, const C3poOptions& options,
                                           const std::function<void(const std::string& line)>& say) {
  c10::AutoGradMode no_grad(false);
  std::unique_ptr<C3po> made(new C3po(model, options));
  made->correct_ = CorrectRows(model, set.reference, options.threads);
  if (made->correct_.numel() == 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "c3po: the frozen model predicts no token of the reference text, so there is no correct routing to "
                 "learn from; leave it out of --variants"};
  }
  const LayerKeys& last = set.keys.back();
  const auto width = static_cast<int64_t>(last.transform.mean.size());
  made->mean_ = TensorOf(last.transform.mean, {width});
  made->projection_ = TensorOf(last.transform.projection, {last.keys.size(1), width});
  made->all_keys_ = last.keys;
  for (const Sequence& s : set.reference) made->lengths_.push_back(static_cast<int64_t>(s.inputs.size()));
  const auto layers = static_cast<int>(model.config().num_layers);
  made->routing_.resize(layers);
  for (int layer = std::max(0, layers - options.layers); layer < layers; ++layer) {
    const at::Tensor hidden = set.hidden[layer].index_select(0, made->correct_);
    made->routing_[layer] = at::matmul(hidden, model.RouterWeight(layer).t()).softmax(1).to(at::kHalf);
  }
  if (say) {
    say(fmt::format("c3po: {} of {} reference tokens are predicted correctly", made->correct_.numel(), set.tokens()));
  }
  POINTSMAN_CHECK_OK(made->Choose(set, say));
  return made;
}

}  // namespace pointsman
