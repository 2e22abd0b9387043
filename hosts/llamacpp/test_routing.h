// A random OLMoE in llama.cpp, for tests: contexts with and without a routing, and what they answer to a text.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hosts/llamacpp/llama_handles.h"
#include "hosts/llamacpp/llama_routing.h"
#include "hosts/llamacpp/test_gguf.h"

namespace pointsman::testing {

inline constexpr float kTolerance = 2e-4f;  // batches of different sizes are multiplied by different kernels
inline const std::vector<int32_t> kText = {1, 4, 2, 2, 6, 0, 3, 5, 1, 1, 4, 0, 2, 6, 3, 3, 5, 4, 1, 0};

inline std::filesystem::path ModelFile(const GgufOptions& options = {}) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("pointsman_" + std::to_string(getpid()) + options.architecture + ".gguf");
  GgufWriter(options).Write(path);
  return path;
}

struct Context {
  std::unique_ptr<LlamaRouting> routing;  // null: plain
  LlamaContext context{nullptr, &llama_free};
};

class LlamaRoutingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    QuietLlama();
    const auto path = ModelFile();
    model_ = LoadLlama(path).value().release();
    ReadRouters(path);
    std::filesystem::remove(path);
    ASSERT_NE(model_, nullptr);
  }
  static void TearDownTestSuite() { llama_model_free(model_); }

  static void ReadRouters(const std::filesystem::path& path) {
    ggml_context* tensors = nullptr;
    gguf_context* file = gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors});
    for (uint32_t layer = 0; layer < kModelLayers; ++layer) {
      const std::string name = "blk." + std::to_string(layer) + ".ffn_gate_inp.weight";
      const float* values = ggml_get_data_f32(ggml_get_tensor(tensors, name.c_str()));
      routers_.emplace_back(values, values + kExperts * kHidden);
    }
    gguf_free(file);
    ggml_free(tensors);
  }
  // [T, E] of hidden [T, H].
  static std::vector<float> FrozenLogits(const std::vector<float>& hidden, int layer) {
    std::vector<float> logits(hidden.size() / kHidden * kExperts);
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto row = hidden.begin() + static_cast<ptrdiff_t>(i / kExperts * kHidden);
      logits[i] = std::inner_product(row, row + kHidden, routers_[layer].begin() + i % kExperts * kHidden, 0.0f);
    }
    return logits;
  }

  static llama_context_params Params(uint32_t micro_batch = 64) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_batch = 64;
    params.n_ubatch = micro_batch;
    params.n_seq_max = 4;
    params.kv_unified = true;
    params.n_threads = params.n_threads_batch = 1;
    return params;
  }
  static Context Plain(llama_context_params params = Params()) {
    return {nullptr, MakeContext(model_, params).value()};
  }
  static Context Attached(llama_context_params params = Params()) {
    auto routing = LlamaRouting::Create(model_).value();
    EXPECT_TRUE(routing->Install(params).ok());
    auto context = MakeContext(model_, params).value();
    return {std::move(routing), std::move(context)};
  }

  // Logits of the batch's output rows, one after another.
  static std::vector<float> Feed(Context& host, std::span<const int32_t> tokens, uint32_t first = 0,
                                 llama_seq_id sequence = 0, bool all = true) {
    const SequenceBatch batch(tokens, first, all, sequence);
    return Feed(host, batch.get());
  }
  static std::vector<float> Feed(Context& host, const llama_batch& batch) {
    if (host.routing == nullptr) {
      EXPECT_EQ(llama_decode(host.context.get(), batch), 0);
    } else {
      const auto code = host.routing->Decode(host.context.get(), batch);
      EXPECT_TRUE(code.ok()) << code.error().message;
      EXPECT_EQ(code.ok() ? code.value() : -1, 0);
    }
    std::vector<float> logits;
    for (int32_t row = 0; row < batch.n_tokens; ++row) {
      if (batch.logits[row] == 0) continue;
      const float* values = llama_get_logits_ith(host.context.get(), row);
      logits.insert(logits.end(), values, values + kVocabulary);
    }
    return logits;
  }
  static std::string DecodeError(Context& host, const llama_batch& batch) {
    const auto code = host.routing->Decode(host.context.get(), batch);
    return code.ok() ? "accepted" : code.error().message;
  }
  static float Largest(std::span<const float> a, std::span<const float> b) {
    EXPECT_EQ(a.size(), b.size());
    float largest = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
    return largest;
  }

  static inline llama_model* model_ = nullptr;
  static inline std::vector<std::vector<float>> routers_;  // by layer, [E, H]
};

// Two sequences in turns: rows 0, 2, 4, .. and 1, 3, 5, ...
inline llama_batch Interleaved(std::span<const int32_t> tokens, uint32_t first) {
  llama_batch batch = llama_batch_init(static_cast<int32_t>(2 * tokens.size()), 0, 1);
  batch.n_tokens = static_cast<int32_t>(2 * tokens.size());
  for (int32_t row = 0; row < batch.n_tokens; ++row) {
    batch.token[row] = tokens[row / 2];
    batch.pos[row] = static_cast<llama_pos>(first) + row / 2;
    batch.n_seq_id[row] = 1;
    batch.seq_id[row][0] = row % 2;
    batch.logits[row] = 1;
  }
  return batch;
}

}  // namespace pointsman::testing
