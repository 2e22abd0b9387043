// A tiny OLMoE with random weights, written as a Hugging Face directory: what tests load through the real door.
// Header-only; included by tests and benchmarks alone.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "memory/routing_tables_owned.h"

namespace pointsman::testing {

struct TinyModelShape {
  int64_t vocab = 263, hidden = 24, inner = 10, layers = 3, heads = 4, kv_heads = 2, experts = 6, top_k = 2;
  int64_t context = 256;
  bool normalize = false, tied = true, fused_experts = false;
  double clip = 0;
  uint32_t seed = 1;
};

// A parameterized test's name. Without it GoogleTest prints the bytes, padding and all, and the name changes.
inline void PrintTo(const TinyModelShape& s, std::ostream* out) {
  *out << s.layers << "_layers_" << s.kv_heads << "_of_" << s.heads << "_heads_" << s.top_k << "_of_" << s.experts
       << "_experts" << (s.normalize ? "_normalized" : "") << (s.tied ? "" : "_untied")
       << (s.clip > 0 ? "_clipped" : "");
}

// A directory that is removed with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "pointsman_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Collects fp32 tensors and writes them as one safetensors file.
class SafetensorsWriter {
 public:
  void Add(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    const size_t begin = data_.size() * sizeof(float);
    data_.insert(data_.end(), values.begin(), values.end());
    header_[name] = {
        {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, begin + values.size() * sizeof(float)}}};
  }
  void Write(const std::filesystem::path& path) const {
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof(length));
    file << header;
    file.write(reinterpret_cast<const char*>(data_.data()), data_.size() * sizeof(float));
  }

 private:
  nlohmann::json header_ = nlohmann::json::object();
  std::vector<float> data_;
};

// Random weights under the hub's names: uniform with the standard deviation 1 / sqrt(columns), norms around 1.
class TinyWeights {
 public:
  explicit TinyWeights(uint32_t seed) : random_(seed) {}
  void Matrix(const std::string& name, std::vector<int64_t> shape) {
    Fill(name, shape, 0, std::sqrt(3.0f / static_cast<float>(shape.back())));
  }
  void Norm(const std::string& name, int64_t size) { Fill(name, {size}, 1, 0.3f); }
  const SafetensorsWriter& writer() const { return writer_; }

 private:
  void Fill(const std::string& name, const std::vector<int64_t>& shape, float center, float radius) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    std::vector<float> values(count);
    for (float& value : values) {
      value = center + radius * (static_cast<float>(random_() >> 8) * 0x1.0p-23f - 1.0f);
    }
    writer_.Add(name, shape, values);
  }

  std::mt19937 random_;
  SafetensorsWriter writer_;
};

inline void WriteJson(const std::filesystem::path& path, const nlohmann::json& value) { std::ofstream(path) << value; }

// Byte-level BPE without merges: id = byte, in GPT-2's alphabet; 256 is <|endoftext|>.
inline void WriteByteTokenizer(const std::filesystem::path& path) {
  nlohmann::json vocabulary;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int point = printable ? byte : next++;
    std::string symbol;
    if (point < 128) {
      symbol = static_cast<char>(point);
    } else {
      symbol = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 63))};
    }
    vocabulary[symbol] = byte;
  }
  vocabulary["<|endoftext|>"] = 256;
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  WriteJson(path, {{"version", "1.0"},
                   {"truncation", nullptr},
                   {"padding", nullptr},
                   {"added_tokens",
                    {{{"id", 256},
                      {"content", "<|endoftext|>"},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", true}}}},
                   {"normalizer", nullptr},
                   {"pre_tokenizer", byte_level},
                   {"post_processor", nullptr},
                   {"decoder", byte_level},
                   {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}});
}

inline nlohmann::json TinyConfig(const TinyModelShape& s) {
  return {{"model_type", "olmoe"},
          {"architectures", {"OlmoeForCausalLM"}},
          {"vocab_size", s.vocab},
          {"hidden_size", s.hidden},
          {"intermediate_size", s.inner},
          {"num_hidden_layers", s.layers},
          {"num_attention_heads", s.heads},
          {"num_key_value_heads", s.kv_heads},
          {"num_experts", s.experts},
          {"num_experts_per_tok", s.top_k},
          {"norm_topk_prob", s.normalize},
          {"hidden_act", "silu"},
          {"clip_qkv", s.clip > 0 ? nlohmann::json(s.clip) : nlohmann::json()},
          {"attention_bias", false},
          {"max_position_embeddings", s.context},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"tie_word_embeddings", s.tied},
          {"eos_token_id", 256},
          {"torch_dtype", "float32"}};
}

inline void WriteTinyModel(const std::filesystem::path& directory, const TinyModelShape& s) {
  TinyWeights weights(s.seed);
  const int64_t kv = s.hidden / s.heads * s.kv_heads;
  weights.Matrix("model.embed_tokens.weight", {s.vocab, s.hidden});
  weights.Norm("model.norm.weight", s.hidden);
  if (!s.tied) weights.Matrix("lm_head.weight", {s.vocab, s.hidden});
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.";
    weights.Norm(layer + "input_layernorm.weight", s.hidden);
    weights.Norm(layer + "post_attention_layernorm.weight", s.hidden);
    weights.Matrix(attention + "q_proj.weight", {s.hidden, s.hidden});
    weights.Matrix(attention + "k_proj.weight", {kv, s.hidden});
    weights.Matrix(attention + "v_proj.weight", {kv, s.hidden});
    weights.Matrix(attention + "o_proj.weight", {s.hidden, s.hidden});
    weights.Norm(attention + "q_norm.weight", s.hidden);
    weights.Norm(attention + "k_norm.weight", kv);
    weights.Matrix(layer + "mlp.gate.weight", {s.experts, s.hidden});
    if (s.fused_experts) {
      weights.Matrix(layer + "mlp.experts.gate_up_proj", {s.experts, 2 * s.inner, s.hidden});
      weights.Matrix(layer + "mlp.experts.down_proj", {s.experts, s.hidden, s.inner});
      continue;
    }
    for (int64_t e = 0; e < s.experts; ++e) {
      const std::string expert = layer + "mlp.experts." + std::to_string(e) + ".";
      weights.Matrix(expert + "gate_proj.weight", {s.inner, s.hidden});
      weights.Matrix(expert + "up_proj.weight", {s.inner, s.hidden});
      weights.Matrix(expert + "down_proj.weight", {s.hidden, s.inner});
    }
  }
  std::filesystem::create_directories(directory);
  weights.writer().Write(directory / "model.safetensors");
  WriteJson(directory / "config.json", TinyConfig(s));
  WriteByteTokenizer(directory / "tokenizer.json");
}

enum class GateState { kOff, kShut, kHalfOpen };  // kOff: no gate, the change always acts

// A memory in RAM for a model of this shape: random raw keys and values at every layer.
inline std::shared_ptr<const RoutingTables> RandomTables(uint32_t hidden, uint32_t experts, uint32_t layers,
                                                         GateState gate) {
  std::mt19937 random(7);
  const auto draw = [&](size_t count, bool unit_rows) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random() >> 8) * 0x1.0p-23f - 1.0f;
    for (size_t row = 0; unit_rows && row < count; row += hidden) {
      float sum = 0;
      for (size_t i = 0; i < hidden; ++i) sum += values[row + i] * values[row + i];
      for (size_t i = 0; i < hidden; ++i) values[row + i] /= std::sqrt(sum);
    }
    return values;
  };
  constexpr uint32_t kRows = 40;
  OwnedTables tables;
  tables.top_k = 2;
  for (uint32_t i = 0; i < layers; ++i) {
    OwnedLayer layer;
    layer.layer = static_cast<int32_t>(i);
    layer.experts = experts;
    layer.keys.hidden = layer.keys.dim = hidden;
    layer.keys.SetKeys(draw(kRows * hidden, true));
    layer.SetValues(draw(kRows * experts, false));
    layer.calibration.k = 4;
    layer.calibration.scale = 5;
    tables.layers.push_back(std::move(layer));
  }
  if (gate != GateState::kOff) {
    tables.gate.enabled = true;
    tables.gate.pairs = {uint64_t{1} << 32 | 2};
    tables.gate.is_common = {0};
    // The evidence is at most 1, so a ramp from 2 stays shut; one from -1 is open in part everywhere.
    tables.gate.groups[0].lo = gate == GateState::kShut ? 2.0f : -1.0f;
    tables.gate.groups[0].hi = gate == GateState::kShut ? 3.0f : 2.0f;
  }
  return MakeTables(std::move(tables));
}

}  // namespace pointsman::testing
