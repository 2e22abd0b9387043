// A random OLMoE as a GGUF file, of the shapes of router/test_tables.h.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "ggml.h"
#include "gguf.h"
#include "router/test_tables.h"

namespace pointsman::testing {

inline constexpr uint32_t kModelLayers = 4;

struct GgufOptions {
  std::string architecture = "olmoe";
  uint32_t seed = 1;
  ggml_type router_type = GGML_TYPE_F32;
};

class GgufWriter {
 public:
  explicit GgufWriter(const GgufOptions& options)
      : options_(options),
        random_(options.seed),
        tensors_(ggml_init({.mem_size = size_t{4} << 20, .mem_buffer = nullptr, .no_alloc = false})),
        file_(gguf_init_empty()) {}
  ~GgufWriter() {
    gguf_free(file_);
    ggml_free(tensors_);
  }

  void Write(const std::filesystem::path& path) {
    gguf_set_val_str(file_, "general.architecture", options_.architecture.c_str());
    Number("vocab_size", kVocabulary);
    Number("context_length", 128);
    Number("embedding_length", kHidden);
    Number("block_count", kModelLayers);
    Number("feed_forward_length", 16);
    Number("attention.head_count", 2);
    Number("attention.head_count_kv", 2);
    Number("expert_count", kExperts);
    Number("expert_used_count", 3);
    gguf_set_val_f32(file_, (options_.architecture + ".attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
    gguf_set_val_str(file_, "tokenizer.ggml.model", "none");
    Matrix("token_embd.weight", kHidden, kVocabulary);
    Matrix("output.weight", kHidden, kVocabulary);
    Norm("output_norm.weight");
    for (uint32_t layer = 0; layer < kModelLayers; ++layer) {
      const std::string block = "blk." + std::to_string(layer) + ".";
      for (const char* norm : {"attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm"}) Norm(block + norm + ".weight");
      for (const char* side : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
        Matrix(block + side + ".weight", kHidden, kHidden);
      }
      Matrix(block + "ffn_gate_inp.weight", kHidden, kExperts, 1, options_.router_type);
      Matrix(block + "ffn_gate_exps.weight", kHidden, 16, kExperts);
      Matrix(block + "ffn_up_exps.weight", kHidden, 16, kExperts);
      Matrix(block + "ffn_down_exps.weight", 16, kHidden, kExperts);
    }
    ASSERT_TRUE(gguf_write_to_file(file_, path.c_str(), /*only_meta=*/false));
  }

 private:
  void Number(const std::string& key, uint32_t value) {
    gguf_set_val_u32(file_, (options_.architecture + "." + key).c_str(), value);
  }
  void Add(const std::string& name, ggml_tensor* tensor, const std::vector<float>& values) {
    if (tensor->type == GGML_TYPE_F16) {
      ggml_fp32_to_fp16_row(values.data(), static_cast<ggml_fp16_t*>(tensor->data), ggml_nelements(tensor));
    } else {
      std::ranges::copy(values, static_cast<float*>(tensor->data));
    }
    ggml_set_name(tensor, name.c_str());
    gguf_add_tensor(file_, tensor);
  }
  void Norm(const std::string& name) {
    Add(name, ggml_new_tensor_1d(tensors_, GGML_TYPE_F32, kHidden), random_.Floats(kHidden, 0.7f, 1.3f));
  }
  void Matrix(const std::string& name, int64_t width, int64_t rows, int64_t depth = 1, ggml_type type = GGML_TYPE_F32) {
    ggml_tensor* tensor = depth == 1 ? ggml_new_tensor_2d(tensors_, type, width, rows)
                                     : ggml_new_tensor_3d(tensors_, type, width, rows, depth);
    const float bound = std::sqrt(3.0f / static_cast<float>(width));
    Add(name, tensor, random_.Floats(static_cast<size_t>(width * rows * depth), -bound, bound));
  }

  GgufOptions options_;
  Random random_;
  ggml_context* tensors_;
  gguf_context* file_;
};

}  // namespace pointsman::testing
