#include "models/config.h"

#include <gtest/gtest.h>

#include "models/testing/mutations.h"
#include "models/testing/safetensors_file.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

class ConfigOfATinyModel : public ::testing::Test {
 protected:
  Result<MoeConfig> Load() {
    testing::WriteJson(directory_.path() / "config.json", config_);
    return LoadConfig(directory_.path());
  }
  // The error of loading with one field changed (null: removed).
  Error LoadWith(const std::string& field, const nlohmann::json& value) {
    const nlohmann::json saved = config_;
    config_[field] = value;
    if (value.is_null()) config_.erase(field);
    const auto loaded = Load();
    config_ = saved;
    return loaded.ok() ? Error{ErrorCode::kInternal, "accepted"} : loaded.error();
  }
  std::string Path() const { return (directory_.path() / "config.json").string(); }

  testing::TemporaryDirectory directory_;
  nlohmann::json config_ = testing::TinyConfig({});
};

TEST_F(ConfigOfATinyModel, ReadsEveryField) {
  config_["clip_qkv"] = 7.5;
  config_["norm_topk_prob"] = true;
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const MoeConfig& config = loaded.value();
  EXPECT_EQ(config.model_type, "olmoe");
  EXPECT_EQ(config.vocab_size, 263);
  EXPECT_EQ(config.hidden_size, 24);
  EXPECT_EQ(config.intermediate_size, 10);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 6);
  EXPECT_EQ(config.num_experts, 6);
  EXPECT_EQ(config.experts_per_token, 2);
  EXPECT_EQ(config.max_positions, 256);
  EXPECT_EQ(config.clip_qkv, 7.5);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{256});
  EXPECT_EQ(config.torch_dtype, "float32");
}

TEST_F(ConfigOfATinyModel, IsTheSameInTheSpellingsOfTransformers4And5) {
  config_["rope_theta"] = 500000.0;
  const auto four = Load();
  for (const char* old : {"rope_theta", "rope_scaling", "torch_dtype", "num_experts"}) config_.erase(old);
  config_["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  config_["dtype"] = "float32";
  config_["num_local_experts"] = 6;
  config_["head_dim"] = 6;
  const auto five = Load();
  ASSERT_TRUE(four.ok() && five.ok());
  EXPECT_EQ(five.value().rope_theta, 500000.0);
  EXPECT_EQ(CanonicalConfig(four.value()), CanonicalConfig(five.value()));
  EXPECT_EQ(four.value().torch_dtype, five.value().torch_dtype);
}

TEST_F(ConfigOfATinyModel, FillsInTheDefaultsOfTheArchitecture) {
  for (const char* optional : {"architectures", "num_key_value_heads", "norm_topk_prob", "clip_qkv", "attention_bias",
                               "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
                               "tie_word_embeddings", "eos_token_id", "torch_dtype", "hidden_act"}) {
    config_.erase(optional);
  }
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded.value().num_kv_heads, 4);
  EXPECT_EQ(loaded.value().max_positions, 4096);
  EXPECT_EQ(loaded.value().rms_norm_eps, 1e-5);
  EXPECT_EQ(loaded.value().rope_theta, 10000.0);
  EXPECT_TRUE(loaded.value().eos_token_ids.empty());
}

TEST_F(ConfigOfATinyModel, CollectsEndTokensOfBothFiles) {
  config_["eos_token_id"] = {7, 50279, 7};
  testing::WriteJson(directory_.path() / "generation_config.json", {{"eos_token_id", {9, 7}}, {"do_sample", true}});
  EXPECT_EQ(Load().value().eos_token_ids, (std::vector<int64_t>{7, 9})) << "50279 is outside the vocabulary";
  testing::WriteJson(directory_.path() / "generation_config.json", {{"eos_token_id", "x"}});
  EXPECT_NE(Load().error().message.find("generation_config.json: field 'eos_token_id'"), std::string::npos);
}

TEST_F(ConfigOfATinyModel, RefusesWhatTheRuntimeDoesNotCompute) {
  struct Case {
    const char* field;
    nlohmann::json value;
    std::string message;
  };
  const Case cases[] = {
      {"model_type", "mixtral", "field 'model_type' is mixtral, which is not supported; 'olmoe' is"},
      {"architectures",
       {"OlmoeModel"},
       "field 'architectures' is OlmoeModel, which is not supported; 'OlmoeForCausalLM' is"},
      {"hidden_act", "gelu", "field 'hidden_act' is gelu, which is not supported; 'silu' is"},
      {"attention_bias", true, "field 'attention_bias' is true, which is not supported; false is"},
      {"rope_scaling",
       {{"type", "yarn"}, {"factor", 4}},
       "field 'rope_scaling.rope_type' is yarn, which is not supported; 'default' (no scaling) is"},
      {"rope_parameters",
       {{"rope_type", "linear"}},
       "field 'rope_parameters.rope_type' is linear, which is not supported; 'default' (no scaling) is"},
      {"rope_parameters",
       {{"partial_rotary_factor", 0.5}},
       "field 'partial_rotary_factor' is 0.5, which is not supported; 1 is"},
  };
  for (const Case& c : cases) {
    const Error error = LoadWith(c.field, c.value);
    EXPECT_EQ(error.code, ErrorCode::kUnsupported) << c.field;
    EXPECT_EQ(error.message, Path() + ": " + c.message);
  }
  EXPECT_EQ(LoadWith("quantization_config", {{"bits", 4}}).code, ErrorCode::kUnsupported);
}

TEST_F(ConfigOfATinyModel, RefusesAbsurdValues) {
  struct Case {
    const char* field;
    nlohmann::json value;
    std::string message;
  };
  const Case cases[] = {
      {"vocab_size", nullptr, "field 'vocab_size' is missing"},
      {"hidden_size", -24, "field 'hidden_size' is -24, outside 1..1048576"},
      {"hidden_size", "24", "field 'hidden_size' is not an integer"},
      {"hidden_size", 25, "field 'num_attention_heads' is 4, which does not divide hidden_size 25"},
      {"num_hidden_layers", 1u << 31, "field 'num_hidden_layers' is 2147483648, outside 1..1024"},
      {"num_key_value_heads", 3, "field 'num_key_value_heads' is 3, which does not divide the 4 heads"},
      {"num_experts", 1025, "field 'num_experts' is 1025, outside 1..1024"},
      {"num_experts_per_tok", 7, "field 'num_experts_per_tok' is 7, outside 1..6"},
      {"head_dim", 5, "field 'head_dim' is odd; rotary positions need pairs"},
      {"rms_norm_eps", -1, "field 'rms_norm_eps' is -1, outside 0..1"},
      {"rope_parameters", 3, "field 'rope_parameters' is not an object"},
      {"architectures", "OlmoeForCausalLM", "field 'architectures' is not a list"},
      {"eos_token_id", {{"a", 1}}, "field 'eos_token_id' is neither a token id nor a list of them"},
  };
  for (const Case& c : cases) {
    const Error error = LoadWith(c.field, c.value);
    EXPECT_EQ(error.code, ErrorCode::kCorrupt) << c.field;
    EXPECT_EQ(error.message, Path() + ": " + c.message);
  }
}

TEST_F(ConfigOfATinyModel, IsNotFoundOrNotJson) {
  EXPECT_EQ(LoadConfig(directory_.path()).error().code, ErrorCode::kNotFound);
  testing::WriteBytes(directory_.path() / "config.json", "{\"model_type\": ");
  EXPECT_EQ(LoadConfig(directory_.path()).error().code, ErrorCode::kCorrupt);
}

TEST_F(ConfigOfATinyModel, CanonicalTextChangesWithWhatTheModelComputes) {
  const std::string original = CanonicalConfig(Load().value());
  const std::pair<const char*, nlohmann::json> changes[] = {
      {"vocab_size", 300},    {"hidden_size", 48},      {"num_hidden_layers", 2},     {"num_experts_per_tok", 3},
      {"rms_norm_eps", 1e-6}, {"norm_topk_prob", true}, {"rope_theta", 10000.000001}, {"tie_word_embeddings", false}};
  for (const auto& [field, value] : changes) {
    const nlohmann::json saved = config_;
    config_[field] = value;
    EXPECT_NE(CanonicalConfig(Load().value()), original) << field;
    config_ = saved;
  }
  config_["eos_token_id"] = 3;
  config_["torch_dtype"] = "bfloat16";
  config_["max_position_embeddings"] = 512;
  EXPECT_EQ(CanonicalConfig(Load().value()), original);
}

TEST_F(ConfigOfATinyModel, SurvivesRandomDamage) {
  const std::string sound = config_.dump();
  int refused = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    testing::WriteBytes(directory_.path() / "config.json", testing::Mutate(sound, seed));
    const auto loaded = LoadConfig(directory_.path());
    if (loaded.ok()) {
      EXPECT_LE(loaded.value().experts_per_token, loaded.value().num_experts) << seed;
      continue;
    }
    ++refused;
    EXPECT_EQ(loaded.error().message.find('\n'), std::string::npos) << seed;
    EXPECT_EQ(loaded.error().message.find(Path()), 0u) << loaded.error().message;
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace pointsman
