#include "models/fingerprint.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <functional>

#include "models/testing/safetensors_file.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using testing::NamedTensor;

constexpr int64_t kLayers = 3, kExperts = 6, kInner = 10, kHidden = 24;  // of TinyModelShape

// A tiny model on disk, whose weights each test respells.
class FingerprintOfATinyModel : public ::testing::Test {
 protected:
  FingerprintOfATinyModel() {
    testing::WriteTinyModel(directory_.path(), {});
    const auto files = SafetensorsFiles::Open(directory_.path());
    for (const auto& [name, view] : files.value().tensors()) {
      tensors_.push_back(
          {name, "F32", view.shape, std::string(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size())});
    }
  }

  Result<Fingerprint> Compute() {
    POINTSMAN_TRY(const MoeConfig config, LoadConfig(directory_.path()));
    POINTSMAN_TRY(const SafetensorsFiles files, SafetensorsFiles::Open(directory_.path()));
    POINTSMAN_TRY(const auto tokenizer, Tokenizer::Load(directory_.path() / "tokenizer.json"));
    return ComputeFingerprint(config, files, *tokenizer);
  }
  void Write(const std::vector<NamedTensor>& tensors) {
    testing::WriteBytes(directory_.path() / "model.safetensors", testing::SafetensorsFile(tensors));
  }
  NamedTensor& Find(const std::string& name) {
    for (NamedTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors_.front();
  }
  // The same weights as [E, 2I, H] and [E, H, I].
  std::vector<NamedTensor> Fused() {
    std::vector<NamedTensor> fused;
    for (const NamedTensor& tensor : tensors_) {
      if (tensor.name.find(".experts.") == std::string::npos) fused.push_back(tensor);
    }
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.experts.";
      NamedTensor gate_up{prefix + "gate_up_proj", "F32", {kExperts, 2 * kInner, kHidden}, ""};
      NamedTensor down{prefix + "down_proj", "F32", {kExperts, kHidden, kInner}, ""};
      for (int64_t expert = 0; expert < kExperts; ++expert) {
        const std::string one = prefix + std::to_string(expert) + ".";
        gate_up.bytes += Find(one + "gate_proj.weight").bytes + Find(one + "up_proj.weight").bytes;
        down.bytes += Find(one + "down_proj.weight").bytes;
      }
      fused.push_back(gate_up);
      fused.push_back(down);
    }
    return fused;
  }

  testing::TemporaryDirectory directory_;
  std::vector<NamedTensor> tensors_;
};

TEST_F(FingerprintOfATinyModel, IsEqualForPerExpertAndFusedWeights) {
  const auto per_expert = Compute();
  ASSERT_TRUE(per_expert.ok()) << per_expert.error().message;
  Write(Fused());
  const auto fused = Compute();
  ASSERT_TRUE(fused.ok()) << fused.error().message;
  EXPECT_EQ(per_expert.value(), fused.value());
  EXPECT_EQ(fused.value().architecture, "olmoe");
  EXPECT_EQ(fused.value().dtype, "float32");
  EXPECT_EQ(fused.value().experts_sha256.size(), 64u);
}

TEST_F(FingerprintOfATinyModel, IsEqualForSingleAndShardedFiles) {
  const Fingerprint single = Compute().value();
  std::vector<NamedTensor> shards[2];
  nlohmann::json weight_map;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    shards[i % 2].push_back(tensors_[i]);
    weight_map[tensors_[i].name] = i % 2 == 0 ? "even.safetensors" : "odd.safetensors";
  }
  std::filesystem::remove(directory_.path() / "model.safetensors");
  testing::WriteBytes(directory_.path() / "even.safetensors", testing::SafetensorsFile(shards[0]));
  testing::WriteBytes(directory_.path() / "odd.safetensors", testing::SafetensorsFile(shards[1]));
  testing::WriteJson(directory_.path() / "model.safetensors.index.json", {{"weight_map", weight_map}});
  EXPECT_EQ(Compute().value(), single);
}

TEST_F(FingerprintOfATinyModel, IsEqualForAnyNumberOfThreads) {
  omp_set_num_threads(1);
  const Fingerprint one = Compute().value();
  omp_set_num_threads(3);
  EXPECT_EQ(Compute().value(), one);
}

TEST_F(FingerprintOfATinyModel, ComparesWidenedWeights) {
  // bf16 weights, and the same values stored in fp32.
  const auto narrow = [](const std::string& wide) {
    std::string out;
    for (size_t i = 0; i < wide.size(); i += 4) out += wide.substr(i + 2, 2);
    return out;
  };
  std::vector<NamedTensor> bf16 = tensors_, fp32 = tensors_;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    bf16[i].dtype = "BF16";
    bf16[i].bytes = narrow(tensors_[i].bytes);
    for (size_t at = 0; at < fp32[i].bytes.size(); at += 4) fp32[i].bytes.replace(at, 2, 2, '\0');
  }
  Write(bf16);
  const Fingerprint narrowed = Compute().value();
  Write(fp32);
  const Fingerprint widened = Compute().value();
  EXPECT_EQ(narrowed.router_sha256, widened.router_sha256);
  EXPECT_EQ(narrowed.experts_sha256, widened.experts_sha256);
  EXPECT_EQ(narrowed.dtype, "bfloat16");
  EXPECT_EQ(widened.dtype, "float32");
}

TEST_F(FingerprintOfATinyModel, ChangesInThePartThatChanged) {
  const Fingerprint original = Compute().value();
  Find("model.layers.1.mlp.gate.weight").bytes[5] ^= 1;
  Write(tensors_);
  Fingerprint changed = Compute().value();
  EXPECT_NE(changed.router_sha256, original.router_sha256);
  EXPECT_EQ(changed.experts_sha256, original.experts_sha256);

  Find("model.layers.2.mlp.experts.5.down_proj.weight").bytes[0] ^= 1;
  Write(tensors_);
  EXPECT_NE(Compute().value().experts_sha256, original.experts_sha256);
  EXPECT_EQ(Compute().value().config_sha256, original.config_sha256);

  auto tokenizer = nlohmann::json::parse(testing::ReadBytes(directory_.path() / "tokenizer.json"));
  tokenizer["model"]["vocab"]["ab"] = 257;
  tokenizer["model"]["merges"] = {"a b"};
  testing::WriteJson(directory_.path() / "tokenizer.json", tokenizer);
  EXPECT_NE(Compute().value().tokenizer_sha256, original.tokenizer_sha256);
}

TEST_F(FingerprintOfATinyModel, NamesAMissingOrDamagedTensor) {
  const float inf = std::numeric_limits<float>::infinity();
  Find("model.layers.0.mlp.gate.weight").bytes.replace(0, 4, testing::BytesOf<float>({inf}));
  Write(tensors_);
  EXPECT_NE(Compute().error().message.find("tensor 'model.layers.0.mlp.gate.weight' has a value"), std::string::npos);
  tensors_.erase(std::remove_if(tensors_.begin(), tensors_.end(),
                                [](const NamedTensor& t) { return t.name.ends_with("0.mlp.gate.weight"); }),
                 tensors_.end());
  Write(tensors_);
  EXPECT_NE(Compute().error().message.find("no tensor 'model.layers.0.mlp.gate.weight'"), std::string::npos);
}

}  // namespace
}  // namespace pointsman
