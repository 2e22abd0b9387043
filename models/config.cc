#include "models/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "models/json_text.h"

namespace pointsman {
namespace {

constexpr uint64_t kMaxFileBytes = 4u << 20;
// Sizes above these are taken for damage: every product of two stays far below 2^63.
constexpr int64_t kMaxVocabulary = 4'000'000, kMaxWidth = 1 << 20, kMaxLayers = 1024, kMaxHeads = 4096;
constexpr int64_t kMaxExperts = 1024, kMaxPositions = 1 << 28;

Error Unsupported(const std::string& file, std::string_view field, std::string_view value, std::string_view supported) {
  return Error{ErrorCode::kUnsupported, fmt::format("{}: field '{}' is {}, which is not supported; {} is", file, field,
                                                    OneLine(value), supported)};
}

// The rotary parameters: top level in transformers 4 ("rope_theta", "rope_scaling"), "rope_parameters" in 5.
Status ReadRope(const nlohmann::json& root, const std::string& file, MoeConfig& config) {
  constexpr double kMinTheta = 1, kMaxTheta = 1e12;
  const JsonFields fields(root, file);
  POINTSMAN_TRY(config.rope_theta, fields.Number("rope_theta", kMinTheta, kMaxTheta, 10000.0));
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!fields.Has(key)) continue;
    const nlohmann::json& rope = root[key];
    if (!rope.is_object()) return fields.Bad(key, "is not an object");
    const JsonFields inner(rope, file + ": " + key);
    POINTSMAN_TRY(const std::string old_type, inner.Text("type", "default"));
    POINTSMAN_TRY(const std::string type, inner.Text("rope_type", old_type));
    if (type != "default") return Unsupported(file, fmt::format("{}.rope_type", key), type, "'default' (no scaling)");
    POINTSMAN_TRY(const double rotated, inner.Number("partial_rotary_factor", 0, 1, 1.0));
    if (rotated != 1.0) return Unsupported(file, "partial_rotary_factor", fmt::format("{}", rotated), "1");
    POINTSMAN_TRY(config.rope_theta, inner.Number("rope_theta", kMinTheta, kMaxTheta, config.rope_theta));
  }
  return {};
}

Status CheckArchitecture(const nlohmann::json& root, const std::string& file, MoeConfig& config) {
  const JsonFields fields(root, file);
  POINTSMAN_TRY(config.model_type, fields.Text("model_type"));
  if (config.model_type != "olmoe") return Unsupported(file, "model_type", config.model_type, "'olmoe'");
  if (fields.Has("architectures")) {
    const nlohmann::json& names = root["architectures"];
    if (!names.is_array()) return fields.Bad("architectures", "is not a list");
    if (!names.empty() && std::find(names.begin(), names.end(), "OlmoeForCausalLM") == names.end()) {
      return Unsupported(file, "architectures", names[0].is_string() ? names[0].get<std::string>() : "unknown",
                         "'OlmoeForCausalLM'");
    }
  }
  POINTSMAN_TRY(const std::string activation, fields.Text("hidden_act", "silu"));
  if (activation != "silu") return Unsupported(file, "hidden_act", activation, "'silu'");
  POINTSMAN_TRY(config.attention_bias, fields.Boolean("attention_bias", false));
  if (config.attention_bias) return Unsupported(file, "attention_bias", "true", "false");
  if (fields.Has("quantization_config")) {
    return Unsupported(file, "quantization_config", "set", "a model with float32, float16 or bfloat16 weights");
  }
  return {};
}

Status ReadSizes(const nlohmann::json& root, const std::string& file, MoeConfig& config) {
  const JsonFields fields(root, file);
  POINTSMAN_TRY(config.vocab_size, fields.Integer("vocab_size", 1, kMaxVocabulary));
  POINTSMAN_TRY(config.hidden_size, fields.Integer("hidden_size", 1, kMaxWidth));
  POINTSMAN_TRY(config.intermediate_size, fields.Integer("intermediate_size", 1, kMaxWidth));
  POINTSMAN_TRY(config.num_layers, fields.Integer("num_hidden_layers", 1, kMaxLayers));
  POINTSMAN_TRY(config.num_heads, fields.Integer("num_attention_heads", 1, kMaxHeads));
  POINTSMAN_TRY(config.num_kv_heads, fields.Integer("num_key_value_heads", 1, kMaxHeads, config.num_heads));
  const char* experts = fields.Has("num_experts") ? "num_experts" : "num_local_experts";
  POINTSMAN_TRY(config.num_experts, fields.Integer(experts, 1, kMaxExperts));
  POINTSMAN_TRY(config.experts_per_token, fields.Integer("num_experts_per_tok", 1, config.num_experts));
  POINTSMAN_TRY(config.max_positions, fields.Integer("max_position_embeddings", 1, kMaxPositions, 4096));
  if (config.num_heads % config.num_kv_heads != 0) {
    return fields.Bad("num_key_value_heads",
                      fmt::format("is {}, which does not divide the {} heads", config.num_kv_heads, config.num_heads));
  }
  const bool divides = config.hidden_size % config.num_heads == 0;
  if (!fields.Has("head_dim") && !divides) {
    return fields.Bad("num_attention_heads",
                      fmt::format("is {}, which does not divide hidden_size {}", config.num_heads, config.hidden_size));
  }
  POINTSMAN_TRY(config.head_dim, fields.Integer("head_dim", 1, kMaxWidth, config.hidden_size / config.num_heads));
  if (config.head_dim % 2 != 0) return fields.Bad("head_dim", "is odd; rotary positions need pairs");
  return {};
}

Status ReadNumerics(const nlohmann::json& root, const std::string& file, MoeConfig& config) {
  const JsonFields fields(root, file);
  POINTSMAN_TRY(config.rms_norm_eps, fields.Number("rms_norm_eps", 0, 1, 1e-5));
  POINTSMAN_TRY(config.clip_qkv, fields.Number("clip_qkv", 0, 1e30, 0.0));
  POINTSMAN_TRY(config.norm_topk_prob, fields.Boolean("norm_topk_prob", false));
  POINTSMAN_TRY(config.tie_word_embeddings, fields.Boolean("tie_word_embeddings", false));
  const char* dtype = fields.Has("dtype") ? "dtype" : "torch_dtype";  // transformers 5 and 4
  POINTSMAN_TRY(config.torch_dtype, fields.Text(dtype, ""));
  return {};
}

// "eos_token_id": null, one id or a list. Ids outside the vocabulary cannot be generated and are left out: small models
// are often saved with the default of the large one.
Status AddEndTokens(const nlohmann::json& root, const std::string& file, MoeConfig& config) {
  const JsonFields fields(root, file);
  if (!fields.Has("eos_token_id")) return {};
  const nlohmann::json& value = root["eos_token_id"];
  const nlohmann::json list = value.is_array() ? value : nlohmann::json::array({value});
  for (const auto& item : list) {
    if (!item.is_number_integer()) return fields.Bad("eos_token_id", "is neither a token id nor a list of them");
    if (item < 0 || item >= config.vocab_size) continue;
    const auto id = item.get<int64_t>();
    auto& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return {};
}

}  // namespace

Result<MoeConfig> LoadConfig(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const std::string file = path.string();
  POINTSMAN_TRY(const nlohmann::json root, ReadJsonObject(path, kMaxFileBytes));
  MoeConfig config;
  POINTSMAN_CHECK_OK(CheckArchitecture(root, file, config));
  POINTSMAN_CHECK_OK(ReadSizes(root, file, config));
  POINTSMAN_CHECK_OK(ReadRope(root, file, config));
  POINTSMAN_CHECK_OK(ReadNumerics(root, file, config));
  POINTSMAN_CHECK_OK(AddEndTokens(root, file, config));
  const std::filesystem::path generation = directory / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) {
    POINTSMAN_TRY(const nlohmann::json defaults, ReadJsonObject(generation, kMaxFileBytes));
    POINTSMAN_CHECK_OK(AddEndTokens(defaults, generation.string(), config));
  }
  return config;
}

// Left out: eos and max_positions bound what is asked of the model, dtype how its weights were stored.
std::string CanonicalConfig(const MoeConfig& config) {
  std::string text = "pointsman config 1\n";
  auto add = [&](std::string_view name, const auto& value) { text += fmt::format("{}={}\n", name, value); };
  add("model_type", config.model_type);
  add("vocab_size", config.vocab_size);
  add("hidden_size", config.hidden_size);
  add("intermediate_size", config.intermediate_size);
  add("num_layers", config.num_layers);
  add("num_heads", config.num_heads);
  add("num_kv_heads", config.num_kv_heads);
  add("head_dim", config.head_dim);
  add("num_experts", config.num_experts);
  add("experts_per_token", config.experts_per_token);
  add("rope_theta", config.rope_theta);  // the shortest text that reads back as the same double
  add("rms_norm_eps", config.rms_norm_eps);
  add("clip_qkv", config.clip_qkv);
  add("norm_topk_prob", config.norm_topk_prob);
  add("tie_word_embeddings", config.tie_word_embeddings);
  add("attention_bias", config.attention_bias);
  return text;
}

}  // namespace pointsman
