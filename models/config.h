// config.json of a Mixture-of-Experts model, in the spellings of transformers 4 and 5. No LibTorch here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct MoeConfig {
  std::string model_type;  // "olmoe"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;        // H
  int64_t intermediate_size = 0;  // width of one expert
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t num_experts = 0;        // E
  int64_t experts_per_token = 0;  // k
  int64_t max_positions = 0;      // context
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  double clip_qkv = 0;  // 0 = off
  bool norm_topk_prob = false;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  std::vector<int64_t> eos_token_ids;  // from config.json / generation_config.json
  std::string torch_dtype;             // as recorded in the file
};

// Reads and validates directory/config.json. Errors name the file, the field, and what is supported:
// kNotFound, kCorrupt (not JSON, absurd or missing values), kUnsupported (another architecture, rope scaling, ..).
Result<MoeConfig> LoadConfig(const std::filesystem::path& directory);
// Canonical text of the fields that define the function the model computes (fingerprint).
std::string CanonicalConfig(const MoeConfig& config);

}  // namespace pointsman
