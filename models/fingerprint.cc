#include "models/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "memory/hash.h"

namespace pointsman {
namespace {

constexpr uint64_t kChunk = 1 << 15;  // values widened at once: 128 KiB stays in the second-level cache

// A run of a tensor's elements in row-major order.
struct Slice {
  std::string name;
  TensorView tensor;
  uint64_t first = 0, count = 0;
};

template <typename Hasher>
Status HashSlice(const Slice& slice, Hasher& hasher) {
  std::vector<float> chunk(std::min(kChunk, slice.count));
  for (uint64_t done = 0; done < slice.count; done += chunk.size()) {
    const std::span<float> part(chunk.data(), std::min<uint64_t>(chunk.size(), slice.count - done));
    POINTSMAN_CHECK_OK(WidenToFloat(slice.tensor, slice.first + done, part));
    hasher.Update(std::as_bytes(part));
  }
  return {};
}

// gate, up and down weights of one expert in this order, from either spelling.
Result<std::vector<Slice>> ExpertSlices(const MoeConfig& config, const SafetensorsFiles& files, int64_t layer,
                                        int64_t expert) {
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size, experts = config.num_experts;
  const auto matrix = static_cast<uint64_t>(hidden) * static_cast<uint64_t>(inner);
  const auto index = static_cast<uint64_t>(expert);
  const std::string prefix = fmt::format("model.layers.{}.mlp.experts.", layer);
  std::vector<Slice> slices;
  auto add = [&](const std::string& name, const std::vector<int64_t>& shape, uint64_t first, uint64_t count) -> Status {
    POINTSMAN_TRY(TensorView tensor, files.Get(name, shape));
    slices.push_back({name, std::move(tensor), first, count});
    return {};
  };
  if (files.Has(prefix + "gate_up_proj")) {
    POINTSMAN_CHECK_OK(add(prefix + "gate_up_proj", {experts, 2 * inner, hidden}, index * 2 * matrix, 2 * matrix));
    POINTSMAN_CHECK_OK(add(prefix + "down_proj", {experts, hidden, inner}, index * matrix, matrix));
    return slices;
  }
  const std::string one = fmt::format("{}{}.", prefix, expert);
  POINTSMAN_CHECK_OK(add(one + "gate_proj.weight", {inner, hidden}, 0, matrix));
  POINTSMAN_CHECK_OK(add(one + "up_proj.weight", {inner, hidden}, 0, matrix));
  POINTSMAN_CHECK_OK(add(one + "down_proj.weight", {hidden, inner}, 0, matrix));
  return slices;
}

Result<std::string> ExpertDigest(const MoeConfig& config, const SafetensorsFiles& files, int64_t layer,
                                 int64_t expert) {
  POINTSMAN_TRY(const std::vector<Slice> slices, ExpertSlices(config, files, layer, expert));
  Xxh3Stream hasher;
  for (const Slice& slice : slices) POINTSMAN_CHECK_OK(HashSlice(slice, hasher));
  return hasher.Hex();
}

Result<std::string> HashExperts(const MoeConfig& config, const SafetensorsFiles& files) {
  const int64_t count = config.num_layers * config.num_experts;
  std::vector<std::optional<Result<std::string>>> digests(static_cast<size_t>(count));
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    digests[static_cast<size_t>(i)] = ExpertDigest(config, files, i / config.num_experts, i % config.num_experts);
  }
  Sha256Stream all;
  for (const auto& digest : digests) {
    if (!digest->ok()) return digest->error();
    all.Update(digest->value() + "\n");
  }
  return all.Hex();
}

}  // namespace

Result<Fingerprint> ComputeFingerprint(const MoeConfig& config, const SafetensorsFiles& files,
                                       const Tokenizer& tokenizer) {
  Fingerprint fingerprint;
  fingerprint.architecture = config.model_type;
  fingerprint.config_sha256 = Sha256Hex(CanonicalConfig(config));
  fingerprint.tokenizer_sha256 = Sha256Hex(tokenizer.CanonicalText());
  Sha256Stream routers;
  const auto values = static_cast<uint64_t>(config.num_experts) * static_cast<uint64_t>(config.hidden_size);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string name = fmt::format("model.layers.{}.mlp.gate.weight", layer);
    POINTSMAN_TRY(TensorView weight, files.Get(name, {config.num_experts, config.hidden_size}));
    POINTSMAN_CHECK_OK(CheckFinite(name, weight));
    if (layer == 0) fingerprint.dtype = TensorTypeName(weight.type);
    POINTSMAN_CHECK_OK(HashSlice({name, std::move(weight), 0, values}, routers));
  }
  fingerprint.router_sha256 = routers.Hex();
  POINTSMAN_TRY(fingerprint.experts_sha256, HashExperts(config, files));
  return fingerprint;
}

Status CheckVocabulary(const MoeConfig& config, const Tokenizer& tokenizer, const std::filesystem::path& directory) {
  if (tokenizer.vocab_size() <= config.vocab_size) return {};
  return Error{ErrorCode::kMismatch,
               fmt::format("{}: tokenizer.json has {} tokens but config.json says vocab_size {}: take both files from "
                           "the same model",
                           directory.string(), tokenizer.vocab_size(), config.vocab_size)};
}

}  // namespace pointsman
