#include "tools/bench/random_memory.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <utility>

#include "memory/memory.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

constexpr int32_t kNeighbours = 32;     // the default of both kinds (adapt/)
constexpr size_t kGatePairs = 100'000;  // of a reference text of some 300,000 tokens
constexpr float kValueScale = 0.01f;    // values up to 1.27

// Eight values a draw: tables of hundreds of megabytes are filled in a second or two.
std::vector<int8_t> RandomCodes(size_t count, std::mt19937_64& random) {
  std::vector<int8_t> codes(count);
  for (size_t i = 0; i < count; i += sizeof(uint64_t)) {
    uint64_t bits = random();
    for (size_t j = i; j < std::min(count, i + sizeof bits); ++j, bits >>= 8) {
      codes[j] = std::max<int8_t>(static_cast<int8_t>(bits), -127);
    }
  }
  return codes;
}

std::vector<float> RandomFloats(size_t count, float radius, std::mt19937_64& random) {
  std::uniform_real_distribution<float> uniform(-radius, radius);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

OwnedKeyIndex RandomKeys(uint32_t hidden, uint32_t dim, uint64_t rows, std::mt19937_64& random) {
  OwnedKeyIndex keys;
  keys.hidden = hidden;
  keys.dim = dim;
  keys.mean = RandomFloats(hidden, 0.1f, random);
  keys.projection = RandomFloats(size_t{dim} * hidden, 1.0f, random);
  keys.codes = RandomCodes(rows * dim, random);
  keys.code_scales.resize(rows);
  for (uint64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (uint32_t d = 0; d < dim; ++d) squares += std::pow(double{keys.codes[row * dim + d] * 1.0}, 2);
    keys.code_scales[row] = static_cast<float>(1 / std::sqrt(std::max(squares, 1.0)));
  }
  return keys;
}

}  // namespace

std::shared_ptr<const RoutingTables> RandomMemory(const MoeConfig& shape, const RandomMemorySpec& spec) {
  std::mt19937_64 random(spec.seed);
  const auto hidden = static_cast<uint32_t>(shape.hidden_size), dim = std::min(spec.key_dim, hidden);
  const auto experts = static_cast<uint32_t>(shape.num_experts);
  const bool prototypes = spec.kind == MemoryKind::kPrototypes;
  OwnedTables tables;
  tables.kind = spec.kind;
  tables.top_k = static_cast<uint32_t>(shape.experts_per_token);
  for (int64_t index = 0; index < shape.num_layers; ++index) {
    OwnedLayer layer;
    layer.layer = static_cast<int32_t>(index);
    layer.experts = experts;
    layer.keys = RandomKeys(hidden, dim, spec.rows, random);
    layer.values = RandomCodes(spec.rows * experts, random);
    layer.value_scales.assign(spec.rows, kValueScale);
    layer.calibration.k = static_cast<int32_t>(std::min<uint64_t>(kNeighbours, spec.rows));
    layer.calibration.confidence = prototypes ? ConfidenceRule::kMaxSimilarity : ConfidenceRule::kMeanSimilarity;
    if (prototypes) {
      layer.router_delta = RandomFloats(size_t{experts} * hidden, 0.01f, random);
      layer.token_table = RandomCodes(static_cast<size_t>(shape.vocab_size) * experts, random);
      layer.token_table_scales.assign(shape.vocab_size, kValueScale);
    }
    tables.layers.push_back(std::move(layer));
  }
  tables.gate.enabled = true;
  tables.gate.groups[0].lo = -3;  // below all evidence
  tables.gate.groups[0].hi = -2;
  const auto token = [&] { return random() % static_cast<uint64_t>(shape.vocab_size); };
  std::set<uint64_t> pairs;
  for (size_t i = 0; i < kGatePairs; ++i) pairs.insert(token() << 32 | token());
  tables.gate.pairs.assign(pairs.begin(), pairs.end());
  tables.gate.is_common.assign(pairs.size(), 0);
  return MakeTables(std::move(tables));
}

Status WriteRandomMemory(const std::filesystem::path& directory, const MoeConfig& shape, const RandomMemorySpec& spec) {
  POINTSMAN_TRY(auto writer, MemoryWriter::Open(directory, {.create = true}));
  Manifest manifest;
  const std::string nobody(64, '0');
  manifest.fingerprint = {.architecture = "olmoe",
                          .config_sha256 = nobody,
                          .router_sha256 = nobody,
                          .tokenizer_sha256 = nobody,
                          .dtype = "float32",
                          .experts_sha256 = nobody};
  manifest.transform_sha256 = nobody;
  return writer->Publish(*RandomMemory(shape, spec), manifest);
}

}  // namespace pointsman
