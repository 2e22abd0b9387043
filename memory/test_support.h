// What the tests of memory/ share: a directory that goes away, small documents, entries and tables.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "memory/entry_store.h"
#include "memory/manifest.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {

// A fresh directory, removed with everything in it at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "pointsman-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "cannot make " << name;
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Prints an error's text where a plain EXPECT_TRUE(x.ok()) would say "false".
template <typename T>
::testing::AssertionResult IsOk(const Result<T>& result) {
  if (result.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().message;
}

// The error's text, empty when there is none.
template <typename T>
std::string MessageOf(const Result<T>& result) {
  return result.ok() ? std::string() : result.error().message;
}

inline std::string ReadBytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

inline void WriteBytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline void FlipBitInFile(const std::filesystem::path& path, size_t offset) {
  std::string bytes = ReadBytes(path);
  ASSERT_LT(offset, bytes.size()) << path;
  bytes[offset] = static_cast<char>(bytes[offset] ^ 0x04);
  WriteBytes(path, bytes);
}

inline Document MakeDocument(uint64_t hash) {
  Document document;
  document.hash = hash;
  document.source = "corpus/" + std::to_string(hash) + ".txt";
  document.sha256 = std::string(64, 'a');
  document.cluster = hash / 2;
  document.role = static_cast<SplitRole>(hash % 3);
  document.added_unix_s = 1'700'000'000;
  document.expires_unix_s = 1'800'000'000;
  document.tags = {"general", ""};
  document.tokens = {1, 2, static_cast<int32_t>(hash % 1000)};
  document.loss_mask = {1, 0, 1};
  return document;
}

inline StoredEntry MakeEntry(int32_t layer, uint64_t document, uint32_t position) {
  const auto first = static_cast<int8_t>((document * 31 + position * 7 + static_cast<uint32_t>(layer)) % 127);
  return {.layer = layer,
          .id = {document, position},
          .code = {first, -128, 127, 0},
          .code_scale = 0.25f,
          .value = {static_cast<int8_t>(-first), 5},
          .value_scale = 0.5f};
}

// Prototypes of two layers, 2 experts, 4 key dimensions; `variant` changes every array.
inline std::shared_ptr<const RoutingTables> MakeSmallTables(int variant, size_t rows = 6) {
  OwnedTables tables;
  tables.kind = MemoryKind::kPrototypes;
  tables.top_k = 1;
  tables.documents = {"corpus/1.txt", "corpus/2.txt"};
  for (int32_t layer : {0, 2}) {
    OwnedLayer owned;
    owned.layer = layer;
    owned.experts = 2;
    owned.keys.hidden = 4;
    owned.keys.dim = 4;
    std::vector<float> keys(rows * 4), values(rows * 2);
    for (size_t i = 0; i < keys.size(); ++i)
      keys[i] = static_cast<float>((i * 7 + static_cast<size_t>(variant)) % 11) - 5;
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>((i + static_cast<size_t>(variant)) % 5) - 2;
    owned.keys.SetKeys(keys);
    owned.SetValues(values);
    owned.references.resize(rows * kPrototypeReferences);
    tables.layers.push_back(std::move(owned));
  }
  return MakeTables(std::move(tables));
}

inline Manifest MakeManifest() {
  Manifest manifest;
  manifest.fingerprint = {.architecture = "olmoe",
                          .config_sha256 = std::string(64, '1'),
                          .router_sha256 = std::string(64, '2'),
                          .tokenizer_sha256 = std::string(64, '3'),
                          .dtype = "bfloat16",
                          .experts_sha256 = std::string(64, '4')};
  manifest.created = "2026-01-31T12:00:00Z";
  return manifest;
}

}  // namespace pointsman
