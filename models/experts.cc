#include "models/experts.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "models/few_rows.h"
#include "models/linear.h"

namespace pointsman {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Who goes where: slot s = n * k + j is row n's j-th expert. `order` lists the slots grouped by expert, rows ascending.
struct Dispatch {
  int64_t k = 0;
  std::vector<int32_t> experts;  // [N * k]
  std::vector<float> weights;    // [N * k]
  std::vector<int64_t> order;    // [N * k]
  std::vector<int64_t> offsets;  // [E + 1]: order[offsets[e] .. offsets[e + 1]) are expert e's slots
  int64_t largest = 0;           // rows of the busiest expert
};

void GroupByExpert(int64_t num_experts, Dispatch* dispatch) {
  dispatch->offsets.assign(num_experts + 1, 0);
  for (int32_t expert : dispatch->experts) ++dispatch->offsets[expert + 1];
  for (int64_t e = 0; e < num_experts; ++e) {
    dispatch->largest = std::max(dispatch->largest, dispatch->offsets[e + 1]);
    dispatch->offsets[e + 1] += dispatch->offsets[e];
  }
  std::vector<int64_t> next(dispatch->offsets.begin(), dispatch->offsets.end() - 1);
  dispatch->order.resize(dispatch->experts.size());
  for (size_t s = 0; s < dispatch->experts.size(); ++s) dispatch->order[next[dispatch->experts[s]]++] = s;
}

Dispatch Plan(const at::Tensor& probabilities, int64_t k, bool normalize) {
  const int64_t rows = probabilities.size(0), num_experts = probabilities.size(1);
  Dispatch dispatch;
  dispatch.k = k;
  dispatch.experts.resize(rows * k);
  dispatch.weights.resize(rows * k);
  for (int64_t n = 0; n < rows; ++n) {
    const std::span<const float> p(probabilities.const_data_ptr<float>() + n * num_experts, num_experts);
    const std::span<int32_t> chosen(dispatch.experts.data() + n * k, k);
    SelectTopK(p, chosen);
    float sum = 0;
    for (int32_t e : chosen) sum += p[e];
    for (int64_t j = 0; j < k; ++j) dispatch.weights[n * k + j] = normalize ? p[chosen[j]] / sum : p[chosen[j]];
  }
  GroupByExpert(num_experts, &dispatch);
  return dispatch;
}

// rows[i] = source[row of slot i], for one expert's slots.
void GatherRows(const at::Tensor& source, std::span<const int64_t> slots, int64_t k, at::Tensor rows) {
  const int64_t width = source.size(1);
  const float* in = source.const_data_ptr<float>();
  float* out = rows.data_ptr<float>();
  for (size_t i = 0; i < slots.size(); ++i) {
    std::memcpy(out + i * width, in + slots[i] / k * width, width * sizeof(float));
  }
}

// y += scale * x. Inlined into its callers below, which are compiled for several instruction sets.
__attribute__((always_inline)) inline void AddScaled(const float* x, float scale, int64_t width, float* y) {
  for (int64_t c = 0; c < width; ++c) y[c] += scale * x[c];
}

// Through a = silu(g) * u for one row, given s = sigmoid(g), upstream d = dL/da before the row's weight w is applied:
// returns d . a = dL/dw and writes w d times the derivatives by g and u. Sixteen partial sums, so that the compiler may
// use vector registers.
__attribute__((always_inline)) inline float BackThroughGate(const float* gate, const float* up, const float* sigmoid,
                                                            const float* d, float weight, int64_t inner, float* d_gate,
                                                            float* d_up) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  const auto one = [&](int64_t i, int64_t lane) {
    const float silu = gate[i] * sigmoid[i], scaled = weight * d[i];
    lanes[lane] += d[i] * (silu * up[i]);
    d_up[i] = scaled * silu;
    d_gate[i] = scaled * up[i] * (sigmoid[i] + silu * (1 - sigmoid[i]));
  };
  int64_t i = 0;
  for (; i + kLanes <= inner; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) one(i + lane, lane);
  }
  for (int64_t lane = 0; i < inner; ++i, ++lane) one(i, lane);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

using AddScaledFunction = void (*)(const float* x, float scale, int64_t width, float* y);
using GateFunction = float (*)(const float* gate, const float* up, const float* sigmoid, const float* d, float weight,
                               int64_t inner, float* d_gate, float* d_up);

void AddScaledPortable(const float* x, float scale, int64_t width, float* y) { AddScaled(x, scale, width, y); }
float GatePortable(const float* gate, const float* up, const float* sigmoid, const float* d, float weight,
                   int64_t inner, float* d_gate, float* d_up) {
  return BackThroughGate(gate, up, sigmoid, d, weight, inner, d_gate, d_up);
}
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void AddScaledAvx2(const float* x, float scale, int64_t width, float* y) {
  AddScaled(x, scale, width, y);
}
__attribute__((target("avx2,fma"))) float GateAvx2(const float* gate, const float* up, const float* sigmoid,
                                                   const float* d, float weight, int64_t inner, float* d_gate,
                                                   float* d_up) {
  return BackThroughGate(gate, up, sigmoid, d, weight, inner, d_gate, d_up);
}
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
AddScaledFunction AddScaledHere() { return HasAvx2() ? AddScaledAvx2 : AddScaledPortable; }
GateFunction GateHere() { return HasAvx2() ? GateAvx2 : GatePortable; }
#else
AddScaledFunction AddScaledHere() { return AddScaledPortable; }
GateFunction GateHere() { return GatePortable; }
#endif

// target[row of slot i] += scale_i * rows[i]; scales by slot, or none.
void AddRows(const at::Tensor& rows, std::span<const int64_t> slots, int64_t k, const float* scales,
             at::Tensor target) {
  const AddScaledFunction add = AddScaledHere();
  const int64_t width = target.size(1);
  const float* in = rows.const_data_ptr<float>();
  float* out = target.data_ptr<float>();
  for (size_t i = 0; i < slots.size(); ++i) {
    add(in + i * width, scales ? scales[slots[i]] : 1.0f, width, out + slots[i] / k * width);
  }
}

// Scratch of one expert's rows, sized for the busiest and narrowed to the current one.
class Scratch {
 public:
  Scratch(int64_t rows, int64_t width, const at::TensorOptions& options) : block_(at::empty({rows, width}, options)) {}
  at::Tensor First(int64_t rows) const { return block_.narrow(0, 0, rows); }

 private:
  at::Tensor block_;
};

// What one expert adds to the rows of its slots before their weights, [slots, H] to `result` by slot; no tensor
// between.
void ApplyExpert(const at::Tensor& x, const ExpertWeights& w, int64_t e, std::span<const int64_t> slots, int64_t k,
                 float* result) {
  const int64_t width = x.size(1), inner = w.down.size(2);
  std::vector<float> gate_up(slots.size() * 2 * inner);
  std::vector<const float*> from;
  std::vector<float*> to;
  for (size_t i = 0; i < slots.size(); ++i) {
    from.push_back(x.const_data_ptr<float>() + slots[i] / k * width);
    to.push_back(gate_up.data() + i * 2 * inner);
  }
  MultiplyFewRows(from, w.gate_up.const_data_ptr<float>() + e * 2 * inner * width, width, 2 * inner, to);
  for (size_t i = 0; i < slots.size(); ++i) {
    float *gate = to[i], *up = gate + inner;
    for (int64_t f = 0; f < inner; ++f) gate[f] = gate[f] / (1 + std::exp(-gate[f])) * up[f];
    from[i] = gate;
    to[i] = result + slots[i] * width;
  }
  MultiplyFewRows(from, w.down.const_data_ptr<float>() + e * width * inner, inner, width, to);
}

// Combine for decoding: few rows, hardly two of them at the same expert.
at::Tensor CombineFewRows(const at::Tensor& x, const ExpertWeights& w, const Dispatch& dispatch) {
  const int64_t width = x.size(1), slots = static_cast<int64_t>(dispatch.order.size());
  const auto experts = static_cast<int64_t>(dispatch.offsets.size()) - 1;
  const at::Tensor outputs = at::empty({slots, width}, x.options());
  const auto of = [&](int64_t e) {
    return std::span(dispatch.order).subspan(dispatch.offsets[e], dispatch.offsets[e + 1] - dispatch.offsets[e]);
  };
  const auto apply = [&](int64_t first, int64_t last) {
    for (int64_t e = first; e < last; ++e) {
      if (!of(e).empty()) ApplyExpert(x, w, e, of(e), dispatch.k, outputs.data_ptr<float>());
    }
  };
  // One row leaves the threads to the products of each expert, which share them where it is large.
  if (x.size(0) == 1 || slots * 3 * width * w.down.size(2) < 2 * kProductsPerThread) {
    apply(0, experts);
  } else {
    at::parallel_for(0, experts, 1, apply);
  }
  at::Tensor result = at::zeros_like(x);
  const AddScaledFunction add = AddScaledHere();
  for (const int64_t slot : dispatch.order) {  // ascending experts
    add(outputs.const_data_ptr<float>() + slot * width, dispatch.weights[slot], width,
        result.data_ptr<float>() + slot / dispatch.k * width);
  }
  return result;
}

// Forward pass; with `kept` the products gate_up x of all slots are left there, in dispatch order, for backward.
at::Tensor Combine(const at::Tensor& x, const ExpertWeights& w, const Dispatch& dispatch, at::Tensor* kept) {
  const int64_t width = x.size(1), inner = w.down.size(2);
  at::Tensor result = at::zeros_like(x);
  const Scratch gathered(dispatch.largest, width, x.options()), active(dispatch.largest, inner, x.options());
  const Scratch projected(kept ? 0 : dispatch.largest, 2 * inner, x.options());
  for (int64_t e = 0; e + 1 < static_cast<int64_t>(dispatch.offsets.size()); ++e) {
    const int64_t first = dispatch.offsets[e], count = dispatch.offsets[e + 1] - first;
    if (count == 0) continue;
    const std::span<const int64_t> slots(dispatch.order.data() + first, count);
    at::Tensor rows = gathered.First(count), act = active.First(count);
    GatherRows(x, slots, dispatch.k, rows);
    at::Tensor gate_up = kept ? kept->narrow(0, first, count) : projected.First(count);
    LinearInto(gate_up, rows, w.gate_up.select(0, e));
    at::silu_out(act, gate_up.narrow(1, 0, inner));
    act.mul_(gate_up.narrow(1, inner, inner));
    LinearInto(rows, act, w.down.select(0, e));  // the gathered rows are no longer needed
    AddRows(rows, slots, dispatch.k, dispatch.weights.data(), result);
  }
  return result;
}

struct MixGradients {
  at::Tensor x, gate_up, down;      // undefined where not wanted
  std::vector<float> slot_weights;  // [N * k]: d loss / d w
};

// What BackThroughGate does, for all rows of one expert. `kept` [count, 2F] holds g and u, `da` [count, F] is
// upstream; d_gate_up [count, 2F] is written, and the slots' gradients.
void BackThroughGates(const at::Tensor& kept, const at::Tensor& da, std::span<const int64_t> slots,
                      const Dispatch& dispatch, at::Tensor d_gate_up, std::vector<float>& slot_gradients) {
  const GateFunction back = GateHere();
  const int64_t inner = da.size(1);
  const at::Tensor sigmoid = at::sigmoid(kept.narrow(1, 0, inner));
  const float *gate_up = kept.const_data_ptr<float>(), *upstream = da.const_data_ptr<float>();
  const float* s = sigmoid.const_data_ptr<float>();
  float* out = d_gate_up.data_ptr<float>();
  for (size_t i = 0; i < slots.size(); ++i, gate_up += 2 * inner, out += 2 * inner, upstream += inner, s += inner) {
    slot_gradients[slots[i]] =
        back(gate_up, gate_up + inner, s, upstream, dispatch.weights[slots[i]], inner, out, out + inner);
  }
}

// d loss / d down of one expert: (w d)^T a.
void DownGradient(const at::Tensor& kept, at::Tensor rows, std::span<const int64_t> slots, const Dispatch& dispatch,
                  at::Tensor result) {
  const int64_t inner = kept.size(1) / 2;
  const at::Tensor act = at::silu(kept.narrow(1, 0, inner)) * kept.narrow(1, inner, inner);
  at::Tensor scale = at::empty({rows.size(0), 1}, rows.options());
  for (size_t i = 0; i < slots.size(); ++i) scale.data_ptr<float>()[i] = dispatch.weights[slots[i]];
  at::mm_out(result, rows.mul_(scale).t(), act);
}

// The backward pass, expert by expert. With a = silu(g) * u and upstream row d: dw = (d down) . a, da = w * (d down).
MixGradients Uncombine(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& kept, const ExpertWeights& w,
                       const Dispatch& dispatch, bool wants_x, bool wants_weights) {
  const int64_t width = x.size(1), inner = w.down.size(2);
  MixGradients result;
  result.slot_weights.resize(dispatch.order.size());
  if (wants_x) result.x = at::zeros_like(x);
  if (wants_weights) {
    result.gate_up = at::zeros_like(w.gate_up);
    result.down = at::zeros_like(w.down);
  }
  const Scratch gathered(dispatch.largest, width, x.options()), inner_grad(dispatch.largest, inner, x.options());
  const Scratch both(dispatch.largest, 2 * inner, x.options());
  for (int64_t e = 0; e + 1 < static_cast<int64_t>(dispatch.offsets.size()); ++e) {
    const int64_t first = dispatch.offsets[e], count = dispatch.offsets[e + 1] - first;
    if (count == 0) continue;
    const std::span<const int64_t> slots(dispatch.order.data() + first, count);
    const at::Tensor gate_up = kept.narrow(0, first, count);
    at::Tensor rows = gathered.First(count), da = inner_grad.First(count), d_gate_up = both.First(count);
    GatherRows(grad, slots, dispatch.k, rows);
    at::mm_out(da, rows, w.down.select(0, e));
    BackThroughGates(gate_up, da, slots, dispatch, d_gate_up, result.slot_weights);
    if (wants_weights) {
      DownGradient(gate_up, rows, slots, dispatch, result.down.select(0, e));
      GatherRows(x, slots, dispatch.k, rows);
      at::Tensor gate_up_out = result.gate_up.select(0, e);
      at::mm_out(gate_up_out, d_gate_up.t(), rows);
    }
    if (wants_x) {
      at::mm_out(rows, d_gate_up, w.gate_up.select(0, e));
      AddRows(rows, slots, dispatch.k, nullptr, result.x);
    }
  }
  return result;
}

// Through the renormalization (if any) and the softmax: dp_e of the chosen, then dz = p * (dp - sum p dp). With
// renormalization sum p dp is zero, and taken as zero: its rounding would reach experts that were not chosen.
at::Tensor LogitGradient(const at::Tensor& probabilities, const Dispatch& dispatch, std::span<const float> slot_grads,
                         bool normalize) {
  const int64_t rows = probabilities.size(0), num_experts = probabilities.size(1), k = dispatch.k;
  at::Tensor result = at::empty_like(probabilities);
  std::vector<float> dp(num_experts);
  for (int64_t n = 0; n < rows; ++n) {
    const float* p = probabilities.const_data_ptr<float>() + n * num_experts;
    float* out = result.data_ptr<float>() + n * num_experts;
    std::fill(dp.begin(), dp.end(), 0.0f);
    float mass = 0, mean = 0, dot = 0;
    for (int64_t s = n * k; s < n * k + k; ++s) {
      mass += p[dispatch.experts[s]];
      mean += slot_grads[s] * dispatch.weights[s];
    }
    for (int64_t s = n * k; s < n * k + k; ++s) {
      const int32_t e = dispatch.experts[s];
      dp[e] = normalize ? (slot_grads[s] - mean) / mass : slot_grads[s];
      if (!normalize) dot += p[e] * dp[e];
    }
    for (int64_t e = 0; e < num_experts; ++e) out[e] = p[e] * (dp[e] - dot);
  }
  return result;
}

class MixFunction : public Function<MixFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& logits,
                            const at::Tensor& gate_up, const at::Tensor& down, int64_t k, bool normalize) {
    const at::Tensor probabilities = at::softmax(logits, -1);
    at::Tensor kept = at::empty({x.size(0) * k, gate_up.size(1)}, x.options());
    at::Tensor result = Combine(x, {gate_up, down}, Plan(probabilities, k, normalize), &kept);
    ctx->save_for_backward({x, probabilities, gate_up, down, kept});
    ctx->saved_data["k"] = k;
    ctx->saved_data["normalize"] = normalize;
    return result;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const bool normalize = ctx->saved_data["normalize"].toBool();
    const Dispatch dispatch = Plan(saved[1], ctx->saved_data["k"].toInt(), normalize);  // cheap beside the products
    MixGradients result = Uncombine(grads[0].contiguous(), saved[0], saved[4], {saved[2], saved[3]}, dispatch,
                                    ctx->needs_input_grad(0), ctx->needs_input_grad(2) || ctx->needs_input_grad(3));
    at::Tensor logits;
    if (ctx->needs_input_grad(1)) logits = LogitGradient(saved[1], dispatch, result.slot_weights, normalize);
    return {result.x, logits, result.gate_up, result.down, at::Tensor(), at::Tensor()};
  }
};

// Of each row [rows, E].
at::Tensor Probabilities(const at::Tensor& logits) {
  if (logits.size(0) > kFewRows) return at::softmax(logits, -1);
  at::Tensor probabilities = logits.clone(at::MemoryFormat::Contiguous);
  const int64_t experts = logits.size(1);
  for (int64_t row = 0; row < logits.size(0); ++row) {
    Softmax(std::span(probabilities.data_ptr<float>() + row * experts, experts), 1);
  }
  return probabilities;
}

}  // namespace

at::Tensor MixExperts(const at::Tensor& x, const at::Tensor& logits, const ExpertWeights& weights, int64_t k,
                      bool normalize) {
  const bool records = at::GradMode::is_enabled() && (x.requires_grad() || logits.requires_grad() ||
                                                      weights.gate_up.requires_grad() || weights.down.requires_grad());
  if (records) return MixFunction::apply(x, logits, weights.gate_up, weights.down, k, normalize);
  const at::NoGradGuard no_grad;
  const Dispatch dispatch = Plan(Probabilities(logits), k, normalize);
  return x.size(0) <= kFewRows ? CombineFewRows(x, weights, dispatch) : Combine(x, weights, dispatch, nullptr);
}

void SelectTopK(std::span<const float> scores, std::span<int32_t> chosen) {
  size_t filled = 0;
  for (size_t e = 0; e < scores.size(); ++e) {
    if (filled == chosen.size() && !(scores[e] > scores[chosen[filled - 1]])) continue;
    size_t place = filled < chosen.size() ? filled++ : filled - 1;
    for (; place > 0 && scores[e] > scores[chosen[place - 1]]; --place) chosen[place] = chosen[place - 1];
    chosen[place] = static_cast<int32_t>(e);
  }
}

}  // namespace pointsman
