// llama.cpp's objects with an owner, for the programs and tests of this folder.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "llama.h"
#include "memory/result.h"

namespace pointsman {

using LlamaModel = std::unique_ptr<llama_model, decltype(&llama_model_free)>;
using LlamaContext = std::unique_ptr<llama_context, decltype(&llama_free)>;

// llama.cpp logs to stderr; errors alone are kept.
inline void QuietLlama() {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
}

inline Result<LlamaModel> LoadLlama(const std::filesystem::path& gguf) {
  llama_backend_init();
  LlamaModel model(llama_model_load_from_file(gguf.c_str(), llama_model_default_params()), &llama_model_free);
  if (model != nullptr) return model;
  return Error{ErrorCode::kCorrupt, gguf.string() + ": llama.cpp cannot load it; see its message above"};
}

// Keys and values in fp32, as in our runtime; llama.cpp's default is fp16.
inline void UseExactCache(llama_context_params& params) {
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;  // it rounds to fp16 on its own
}

inline Result<LlamaContext> MakeContext(llama_model* model, const llama_context_params& params) {
  LlamaContext context(llama_init_from_model(model, params), &llama_free);
  if (context != nullptr) return context;
  return Error{ErrorCode::kInternal, "llama.cpp could not make a context; see its message above"};
}

// A batch of one sequence that owns its arrays.
class SequenceBatch {
 public:
  // Outputs of the last row, or of all.
  SequenceBatch(std::span<const int32_t> tokens, uint32_t first, bool all_outputs, llama_seq_id sequence = 0)
      : batch_(llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1)) {
    batch_.n_tokens = static_cast<int32_t>(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      batch_.token[i] = tokens[i];
      batch_.pos[i] = static_cast<llama_pos>(first + i);
      batch_.n_seq_id[i] = 1;
      batch_.seq_id[i][0] = sequence;
      batch_.logits[i] = static_cast<int8_t>(all_outputs || i + 1 == tokens.size());
    }
  }
  ~SequenceBatch() { llama_batch_free(batch_); }
  SequenceBatch(const SequenceBatch&) = delete;
  SequenceBatch& operator=(const SequenceBatch&) = delete;

  const llama_batch& get() const { return batch_; }

 private:
  llama_batch batch_;
};

}  // namespace pointsman
