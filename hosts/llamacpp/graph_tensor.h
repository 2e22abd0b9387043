// What the eval callback reads from llama.cpp's graph. Names and shapes are those of llama.cpp's src/llama-graph.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "ggml.h"

namespace pointsman {

// N of "ffn_moe_logits-N", else -1.
int32_t RouterLogitsLayer(const ggml_tensor* tensor);

// The operand of `op` that is the graph's input `name`, or the scheduler's copy of it on another backend; null: none.
const ggml_tensor* InputOperand(const ggml_tensor* tensor, ggml_op op, std::string_view name);

// [n] of an int32 input that is not overwritten yet: REQUIRES that the callback is asking for a tensor that reads it.
std::vector<int32_t> ReadInts(const ggml_tensor* tensor);

// The right-hand side of the matrix product that made `product`, through what adapters and scales add to it: [n, K].
// Null: there is none.
const ggml_tensor* ProductInput(const ggml_tensor* product);

// A computed fp32 matrix [rows, width]: its own bytes where the processor sees them, else a copy.
class TensorFloats {
 public:
  explicit TensorFloats(const ggml_tensor* tensor);
  // fp32 without gaps; the values are empty otherwise.
  bool readable() const { return readable_; }
  size_t rows() const { return rows_; }
  size_t width() const { return width_; }
  std::span<float> values() { return values_; }
  // Puts the values back into the tensor. REQUIRES: readable().
  void Store();

 private:
  const ggml_tensor* tensor_;
  bool readable_ = false;
  size_t rows_ = 0, width_ = 0;
  std::span<float> values_;
  std::vector<float> copy_;
};

}  // namespace pointsman
