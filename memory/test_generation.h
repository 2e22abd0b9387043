// What tests of generations share: a small memory with every optional part, written, mapped and compared.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "memory/fault_injection.h"
#include "memory/generation.h"
#include "memory/hash.h"
#include "memory/memory.h"
#include "memory/routing_tables_owned.h"
#include "memory/section_file.h"
#include "memory/test_support.h"

namespace pointsman {

// A small memory of prototypes that uses every optional part: two layers, gate, projection, delta, token table and
// output memory.
class GenerationOfPrototypes : public testing::Test {
 protected:
  static constexpr uint32_t kHidden = 12, kDim = 5, kExperts = 6, kVocabulary = 9;

  void SetUp() override { tables_ = MakeTables(Owned()); }

  std::vector<float> Random(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& x : values) x = normal(random_);
    return values;
  }

  OwnedLayer Layer(int32_t number, size_t rows) {
    OwnedLayer layer;
    layer.layer = number;
    layer.experts = kExperts;
    layer.keys.hidden = kHidden;
    layer.keys.dim = kDim;
    layer.keys.mean = Random(kHidden);
    layer.keys.projection = Random(kDim * kHidden);
    layer.keys.SetKeys(Random(rows * kDim));
    layer.SetValues(Random(rows * kExperts));
    layer.references.resize(rows * kPrototypeReferences);
    for (size_t i = 0; i < layer.references.size(); i += 3) layer.references[i] = {static_cast<uint32_t>(i % 2), 7};
    layer.calibration = {.k = 4, .tau = 0.1f, .tau2 = 0.6f, .scale = 2.5f, .confidence = ConfidenceRule::kMeanKernel};
    layer.router_delta = Random(kExperts * kHidden);
    layer.SetTokenTable(Random(kVocabulary * kExperts));
    return layer;
  }

  OwnedTables Owned() {
    OwnedTables owned;
    owned.kind = MemoryKind::kPrototypes;
    owned.top_k = 2;
    owned.layers.push_back(Layer(1, 40));
    owned.layers.push_back(Layer(3, 17));
    owned.documents = {"notes/first.md", "corpus.jsonl#2"};
    owned.gate = {.enabled = true,
                  .n0 = 2,
                  .common = 0.4f,
                  .window = 50,
                  .groups = {{.name = "", .prior = 0.1f, .lo = 0.2f, .hi = 0.6f}},
                  .pairs = {3, uint64_t{1} << 32 | 7, uint64_t{2} << 32},
                  .is_common = {0, 1, 0},
                  .pair_groups = {}};
    owned.output = {.enabled = true, .vocabulary = kVocabulary, .k = 3, .tau = 0.2f, .lambda = 0.4f, .tau2 = 0.3f};
    owned.output.keys.hidden = kHidden;
    owned.output.keys.dim = kDim;
    owned.output.keys.mean = Random(kHidden);
    owned.output.keys.projection = Random(kDim * kHidden);
    owned.output.keys.SetKeys(Random(23 * kDim));
    for (int32_t row = 0; row < 23; ++row) {
      owned.output.next_tokens.push_back(row % static_cast<int32_t>(kVocabulary));
      owned.output.references.push_back({static_cast<uint32_t>(row % 2), static_cast<uint32_t>(row)});
    }
    return owned;
  }

  // Half of the tokens alone have a row in layer 1.
  static OwnedTables WithTokenIds(OwnedTables owned) {
    OwnedLayer& layer = owned.layers[0];
    std::vector<float> rows(size_t{kVocabulary} * kExperts);
    for (const uint32_t token : {1u, 2u, 4u, 7u}) rows[token * kExperts + token % kExperts] = static_cast<float>(token);
    layer.SetTokenTable(rows);
    return owned;
  }
  static OwnedTables WithGroups(OwnedTables owned) {
    owned.gate.groups = {{.name = "headers", .prior = 0.1f, .lo = 0.2f, .hi = 0.6f},
                         {.name = "sums", .prior = 0.3f, .lo = 0.4f, .hi = 0.5f}};
    owned.gate.pair_groups = {1, 3, 2};
    return owned;
  }

  std::filesystem::path path() const { return directory_ / "gen-001"; }
  Status Write() { return WriteGeneration(files_, path(), *tables_); }
  Result<RoutingTables> Map(bool to_ram = false, bool verify = true) {
    return MapGeneration(files_, path(), to_ram, verify);
  }
  std::vector<std::string> FileNames() { return FileSystem::Real().List(path()).value(); }
  void Overwrite(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(FileSystem::Real().WriteAtomically(path() / name, bytes).ok());
  }

  static constexpr uint64_t kHostile[] = {0,           1, 0x7fffffff, 0xffffffff, uint64_t{1} << 32, uint64_t{1} << 61,
                                          ~uint64_t{0}};
  // `bytes` of the file `name`, with a hash of header and table that fits.
  void ExpectRefusedOrHarmless(const std::string& name, std::string bytes, size_t offset) {
    std::string header = bytes.substr(0, 64);
    uint32_t sections = 0;
    std::memcpy(&sections, header.data() + 40, 4);
    const uint64_t table = std::min<uint64_t>(uint64_t{sections} * 32, bytes.size() - 64);
    std::memset(header.data() + 48, 0, 8);
    const uint64_t hash = Xxh3(header + bytes.substr(64, table));
    std::memcpy(bytes.data() + 48, &hash, 8);
    Overwrite(name, bytes);
    const auto mapped = Map(false, /*verify=*/false);
    if (!mapped.ok()) return;
    EXPECT_TRUE(CheckTables(mapped.value()).ok()) << name << " " << offset;
    Digest(mapped.value());  // touches every array
  }

  std::mt19937_64 random_{1};
  TemporaryDirectory temporary_;
  std::filesystem::path directory_ = temporary_.path();
  FaultyFileSystem files_;
  std::shared_ptr<const RoutingTables> tables_;
};

template <typename T>
std::vector<T> Copy(std::span<const T> values) {
  return {values.begin(), values.end()};
}

inline void ExpectSameKeys(const KeyIndexView& a, const KeyIndexView& b) {
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.dim, b.dim);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(Copy(a.mean), Copy(b.mean));
  EXPECT_EQ(Copy(a.projection), Copy(b.projection));
  EXPECT_EQ(Copy(a.codes), Copy(b.codes));
  EXPECT_EQ(Copy(a.code_scales), Copy(b.code_scales));
}

inline void ExpectSameTables(const RoutingTables& a, const RoutingTables& b) {
  EXPECT_EQ(a.kind, b.kind);
  EXPECT_EQ(a.value_kind, b.value_kind);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(a.documents, b.documents);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    const LayerView &x = a.layers[i], &y = b.layers[i];
    EXPECT_EQ(x.layer, y.layer);
    EXPECT_EQ(x.experts, y.experts);
    ExpectSameKeys(x.keys, y.keys);
    EXPECT_EQ(Copy(x.values), Copy(y.values));
    EXPECT_EQ(Copy(x.value_scales), Copy(y.value_scales));
    ASSERT_EQ(x.references.size(), y.references.size());
    for (size_t r = 0; r < x.references.size(); ++r) {
      EXPECT_EQ(x.references[r].document, y.references[r].document);
      EXPECT_EQ(x.references[r].position, y.references[r].position);
    }
    EXPECT_EQ(x.calibration.k, y.calibration.k);
    EXPECT_EQ(x.calibration.tau, y.calibration.tau);
    EXPECT_EQ(x.calibration.tau2, y.calibration.tau2);
    EXPECT_EQ(x.calibration.scale, y.calibration.scale);
    EXPECT_EQ(x.calibration.confidence, y.calibration.confidence);
    EXPECT_EQ(Copy(x.router_delta), Copy(y.router_delta));
    EXPECT_EQ(Copy(x.token_table), Copy(y.token_table));
    EXPECT_EQ(Copy(x.token_table_scales), Copy(y.token_table_scales));
    EXPECT_EQ(Copy(x.token_ids), Copy(y.token_ids));
  }
  EXPECT_EQ(a.gate.enabled, b.gate.enabled);
  EXPECT_EQ(a.gate.n0, b.gate.n0);
  EXPECT_EQ(a.gate.groups, b.gate.groups);
  EXPECT_EQ(a.gate.window, b.gate.window);
  EXPECT_EQ(a.gate.common, b.gate.common);
  EXPECT_TRUE(std::ranges::equal(a.gate.pairs, b.gate.pairs));
  EXPECT_TRUE(std::ranges::equal(a.gate.is_common, b.gate.is_common));
  EXPECT_TRUE(std::ranges::equal(a.gate.pair_groups, b.gate.pair_groups));
  EXPECT_EQ(a.output.enabled, b.output.enabled);
  EXPECT_EQ(a.output.vocabulary, b.output.vocabulary);
  EXPECT_EQ(a.output.k, b.output.k);
  EXPECT_EQ(a.output.tau, b.output.tau);
  EXPECT_EQ(a.output.lambda, b.output.lambda);
  EXPECT_EQ(a.output.tau2, b.output.tau2);
  ExpectSameKeys(a.output.keys, b.output.keys);
  EXPECT_EQ(Copy(a.output.next_tokens), Copy(b.output.next_tokens));
  ASSERT_EQ(a.output.references.size(), b.output.references.size());
  for (size_t r = 0; r < a.output.references.size(); ++r) {
    EXPECT_EQ(a.output.references[r].document, b.output.references[r].document);
    EXPECT_EQ(a.output.references[r].position, b.output.references[r].position);
  }
}

}  // namespace pointsman
