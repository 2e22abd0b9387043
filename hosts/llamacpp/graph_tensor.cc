#include "hosts/llamacpp/graph_tensor.h"

#include <charconv>
#include <string>

#include "ggml-backend.h"

namespace pointsman {
namespace {

constexpr std::string_view kRouterLogits = "ffn_moe_logits-";
constexpr int kAdapterDepth = 8;  // sums and scales that one adapter each may put around a product

const ggml_backend_buffer* BufferOf(const ggml_tensor* tensor) {
  return tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
}

}  // namespace

int32_t RouterLogitsLayer(const ggml_tensor* tensor) {
  const std::string_view name = tensor->name;
  if (!name.starts_with(kRouterLogits)) return -1;
  const std::string_view digits = name.substr(kRouterLogits.size());
  int32_t layer = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  return error == std::errc() && end == digits.data() + digits.size() ? layer : -1;
}

const ggml_tensor* InputOperand(const ggml_tensor* tensor, ggml_op op, std::string_view name) {
  if (tensor->op != op || tensor->src[1] == nullptr) return nullptr;
  const std::string_view operand = tensor->src[1]->name;
  // The scheduler names its copies "BACKEND#name#number".
  if (operand == name || operand.find("#" + std::string(name) + "#") != std::string_view::npos) return tensor->src[1];
  return nullptr;
}

std::vector<int32_t> ReadInts(const ggml_tensor* tensor) {
  if (tensor->type != GGML_TYPE_I32) return {};
  std::vector<int32_t> values(static_cast<size_t>(ggml_nelements(tensor)));
  if (!values.empty()) ggml_backend_tensor_get(tensor, values.data(), 0, values.size() * sizeof(int32_t));
  return values;
}

const ggml_tensor* ProductInput(const ggml_tensor* product) {
  for (int depth = 0; product != nullptr && depth < kAdapterDepth; ++depth, product = product->src[0]) {
    if (product->op == GGML_OP_MUL_MAT) return product->src[1];
    if (product->op != GGML_OP_ADD && product->op != GGML_OP_MUL && product->op != GGML_OP_SCALE) return nullptr;
  }
  return nullptr;
}

TensorFloats::TensorFloats(const ggml_tensor* tensor)
    : tensor_(tensor), rows_(static_cast<size_t>(ggml_nrows(tensor))), width_(static_cast<size_t>(tensor->ne[0])) {
  if (tensor->type != GGML_TYPE_F32 || !ggml_is_contiguous(tensor)) return;
  readable_ = true;
  const size_t count = rows_ * width_;
  if (count == 0) return;
  if (ggml_backend_buffer_is_host(const_cast<ggml_backend_buffer*>(BufferOf(tensor)))) {
    values_ = std::span(static_cast<float*>(tensor->data), count);
    return;
  }
  copy_.resize(count);
  ggml_backend_tensor_get(tensor, copy_.data(), 0, count * sizeof(float));
  values_ = copy_;
}

void TensorFloats::Store() {
  if (copy_.empty()) return;
  // The callback is given what it may overwrite; only ggml_backend_tensor_get takes it as const.
  ggml_backend_tensor_set(const_cast<ggml_tensor*>(tensor_), copy_.data(), 0, copy_.size() * sizeof(float));
}

}  // namespace pointsman
