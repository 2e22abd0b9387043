#include "models/norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <cmath>

namespace pointsman {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Independent partial sums, so that the compiler may use vector registers without reordering additions at will.
constexpr int64_t kLanes = 16;

template <typename Term>
float Sum(int64_t n, Term term) {
  std::array<float, kLanes> lanes{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += term(i + l);
  }
  for (int64_t l = 0; i < n; ++i, ++l) lanes[l] += term(i);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

// A view with one row stride: [rows, H] over x, copying only where x's leading dimensions do not merge.
at::Tensor AsRows(const at::Tensor& x) { return x.dim() == 2 ? x : x.reshape({-1, x.size(-1)}); }

struct Normalized {
  at::Tensor y;            // shape of x
  at::Tensor inverse_rms;  // [rows]
};

Normalized NormalizeRows(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor rows = AsRows(x);
  const int64_t count = rows.size(0), width = rows.size(1), stride = rows.stride(0);
  Normalized result{at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous)),
                    at::empty({count}, x.options())};
  const float* in = rows.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  float* out = result.y.data_ptr<float>();
  float* inverse = result.inverse_rms.data_ptr<float>();
  for (int64_t r = 0; r < count; ++r, in += stride, out += width) {
    const float mean = Sum(width, [in](int64_t i) { return in[i] * in[i]; }) / static_cast<float>(width);
    const float scale = 1.0f / std::sqrt(mean + static_cast<float>(eps));
    for (int64_t i = 0; i < width; ++i) out[i] = w[i] * (in[i] * scale);
    inverse[r] = scale;
  }
  return result;
}

class RmsNormFunction : public Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double eps) {
    Normalized result = NormalizeRows(x, weight, eps);
    ctx->save_for_backward({x, weight, result.inverse_rms});
    return result.y;
  }

  // dx = r (w dy) - x r^3 / H * sum(w dy x);  dw = sum over rows of dy x r.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor rows = AsRows(saved[0]), dy = AsRows(grads[0].contiguous());
    const int64_t count = rows.size(0), width = rows.size(1), stride = rows.stride(0);
    const bool wants_weight = ctx->needs_input_grad(1);
    at::Tensor dx = at::empty(saved[0].sizes(), saved[0].options().memory_format(at::MemoryFormat::Contiguous));
    at::Tensor dw = wants_weight ? at::zeros_like(saved[1]) : at::Tensor();
    const float *x = rows.const_data_ptr<float>(), *g = dy.const_data_ptr<float>();
    const float *w = saved[1].const_data_ptr<float>(), *inverse = saved[2].const_data_ptr<float>();
    float* out = dx.data_ptr<float>();
    float* weight_out = wants_weight ? dw.data_ptr<float>() : nullptr;
    for (int64_t r = 0; r < count; ++r, x += stride, g += width, out += width) {
      const float scale = inverse[r];
      const float dot = Sum(width, [=](int64_t i) { return w[i] * g[i] * x[i]; });
      const float back = scale * scale * scale * dot / static_cast<float>(width);
      for (int64_t i = 0; i < width; ++i) out[i] = scale * (w[i] * g[i]) - back * x[i];
      if (wants_weight) {
        for (int64_t i = 0; i < width; ++i) weight_out[i] += g[i] * x[i] * scale;
      }
    }
    return {dx, dw, at::Tensor()};
  }
};

// One head: (a, b) -> (a cos - b sin, b cos + a sin), the other way round with direction -1.
void RotateHead(const float* x, const float* c, const float* s, int64_t half, float direction, float* y) {
  for (int64_t i = 0; i < half; ++i) {
    const float low = x[i], high = x[i + half], turn = direction * s[i];
    y[i] = low * c[i] - high * turn;
    y[i + half] = high * c[i] + low * turn;
  }
}

// One pass of rotation. `from` and `to` are strides of (batch, head, position); direction -1 undoes the rotation.
struct HeadStrides {
  int64_t batch, head, position;
};
HeadStrides TokensFirst(int64_t heads, int64_t length, int64_t dim) { return {length * heads * dim, dim, heads * dim}; }
HeadStrides HeadsFirst(int64_t heads, int64_t length, int64_t dim) { return {heads * length * dim, length * dim, dim}; }

void Rotate(const float* in, HeadStrides from, float* out, HeadStrides to, const at::Tensor& cosine,
            const at::Tensor& sine, std::array<int64_t, 3> shape, int64_t first, float direction) {
  const auto [batches, heads, length] = shape;
  const int64_t half = cosine.size(1);
  for (int64_t b = 0; b < batches; ++b) {
    for (int64_t t = 0; t < length; ++t) {
      const float* c = cosine.const_data_ptr<float>() + (first + t) * half;
      const float* s = sine.const_data_ptr<float>() + (first + t) * half;
      for (int64_t h = 0; h < heads; ++h) {
        RotateHead(in + b * from.batch + h * from.head + t * from.position, c, s, half, direction,
                   out + b * to.batch + h * to.head + t * to.position);
      }
    }
  }
}

class RopeFunction : public Function<RopeFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                            int64_t first) {
    ctx->save_for_backward({cosine, sine});
    ctx->saved_data["first"] = first;
    const int64_t batches = x.size(0), length = x.size(1), heads = x.size(2), dim = x.size(3);
    at::Tensor y = at::empty({batches, heads, length, dim}, x.options());
    Rotate(x.const_data_ptr<float>(), TokensFirst(heads, length, dim), y.data_ptr<float>(),
           HeadsFirst(heads, length, dim), cosine, sine, {batches, heads, length}, first, 1.0f);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dy = grads[0].contiguous();
    const int64_t batches = dy.size(0), heads = dy.size(1), length = dy.size(2), dim = dy.size(3);
    at::Tensor dx = at::empty({batches, length, heads, dim}, dy.options());
    Rotate(dy.const_data_ptr<float>(), HeadsFirst(heads, length, dim), dx.data_ptr<float>(),
           TokensFirst(heads, length, dim), saved[0], saved[1], {batches, heads, length},
           ctx->saved_data["first"].toInt(), -1.0f);
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const bool records = at::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  // Making a node of the graph costs more than normalizing a row.
  return records ? RmsNormFunction::apply(x, weight, eps) : NormalizeRows(x, weight, eps).y;
}

RopeTables MakeRopeTables(int64_t positions, int64_t head_dim, double theta) {
  // In fp32 and in this order, as transformers computes them: angles of late positions depend on the rounding.
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kFloat) / static_cast<double>(head_dim);
  const at::Tensor frequencies = 1.0 / at::pow(at::Scalar(theta), exponents);
  const at::Tensor angles = at::outer(at::arange(positions, at::kFloat), frequencies);
  return {at::cos(angles), at::sin(angles)};
}

at::Tensor ApplyRope(const at::Tensor& x, const RopeTables& tables, int64_t first) {
  return RopeFunction::apply(x, tables.cosine, tables.sine, first);
}

void RotateHeads(const float* x, int64_t heads, const RopeTables& tables, int64_t position, float* y, int64_t stride) {
  const int64_t half = tables.cosine.size(1);
  const float* c = tables.cosine.const_data_ptr<float>() + position * half;
  const float* s = tables.sine.const_data_ptr<float>() + position * half;
  for (int64_t h = 0; h < heads; ++h) RotateHead(x + h * 2 * half, c, s, half, 1.0f, y + h * stride);
}

}  // namespace pointsman
