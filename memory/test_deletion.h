// What the tests of deletion share: a memory of documents whose bytes are found wherever they are left, and what must
// hold of it afterwards.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/sst_file_reader.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory/deletion.h"
#include "memory/generation.h"
#include "memory/memory_paths.h"
#include "memory/test_support.h"

namespace pointsman {

inline constexpr int32_t kVocabulary = 1 << 24;
inline constexpr int32_t kEnd = kVocabulary - 1;
inline constexpr size_t kTokens = 24, kDim = 16, kExperts = 4;
inline constexpr uint64_t kGone = 3, kKept = 5, kOtherKept = 8, kCalibration = 10, kTest = 11;
inline const std::vector<int32_t> kLayers = {0, 2};

// Random bytes never repeat, so that LZ4, which compresses truth's tables, keeps each of them as a literal: a search of
// the raw files then finds them in compressed blocks, too.
class Texts {
 public:
  explicit Texts(uint64_t seed) : random_(seed) {}
  std::string Name() {
    constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    std::string name;
    for (int i = 0; i < 40; ++i) name += kLetters[random_() % kLetters.size()];
    return name;
  }
  std::vector<int32_t> Tokens() {
    std::vector<int32_t> tokens(kTokens);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % (kVocabulary - 1));
    return tokens;
  }
  std::vector<int8_t> Codes(size_t count) {
    std::vector<int8_t> codes(count);
    for (int8_t& code : codes) code = static_cast<int8_t>(random_());
    return codes;
  }

 private:
  std::mt19937_64 random_;
};

struct TestDocument {
  Document document;
  std::map<int32_t, std::vector<std::vector<int8_t>>> codes;  // by layer, one key a token
};

inline TestDocument MakeTestDocument(uint64_t hash, SplitRole role) {
  Texts texts(hash);
  TestDocument made;
  made.document.hash = hash;
  made.document.source = texts.Name();
  made.document.sha256 = std::string(63, 'a') + static_cast<char>('0' + hash % 10);
  made.document.cluster = hash;
  made.document.role = role;
  made.document.tags = {texts.Name()};
  if (role == SplitRole::kTest) return made;  // as a build has it: the test split's text is not kept
  made.document.tokens = texts.Tokens();
  if (role != SplitRole::kReference) return made;
  for (const int32_t layer : kLayers) {
    for (size_t t = 0; t < kTokens; ++t) made.codes[layer].push_back(texts.Codes(kDim));
  }
  return made;
}

inline std::vector<TestDocument> AllDocuments() {
  return {MakeTestDocument(kGone, SplitRole::kReference), MakeTestDocument(kKept, SplitRole::kReference),
          MakeTestDocument(kOtherKept, SplitRole::kReference), MakeTestDocument(kCalibration, SplitRole::kCalibration),
          MakeTestDocument(kTest, SplitRole::kTest)};
}

// The memory that a build of these documents would publish, the reference ones as entries.
inline OwnedTables TablesOf(const std::vector<TestDocument>& documents) {
  OwnedTables tables;
  tables.kind = MemoryKind::kEntries;
  tables.top_k = 1;
  std::vector<uint64_t> pairs;
  OwnedOutput& output = tables.output;
  output.enabled = true;
  output.vocabulary = kVocabulary;
  output.keys.hidden = output.keys.dim = kDim;
  for (const int32_t number : kLayers) {
    OwnedLayer layer;
    layer.layer = number;
    layer.experts = kExperts;
    layer.keys.hidden = layer.keys.dim = kDim;
    for (size_t d = 0; d < documents.size(); ++d) {
      if (documents[d].document.role != SplitRole::kReference) continue;
      for (uint32_t t = 0; t < kTokens; ++t) {
        const std::vector<int8_t>& code = documents[d].codes.at(number)[t];
        layer.keys.codes.insert(layer.keys.codes.end(), code.begin(), code.end());
        layer.keys.code_scales.push_back(0.25f);
        layer.values.insert(layer.values.end(), code.begin(), code.begin() + kExperts);
        layer.value_scales.push_back(0.5f);
        layer.references.push_back({static_cast<uint32_t>(d), t});
      }
    }
    tables.layers.push_back(std::move(layer));
  }
  for (size_t d = 0; d < documents.size(); ++d) {
    tables.documents.push_back(documents[d].document.source);
    if (documents[d].document.role != SplitRole::kReference) continue;
    int32_t previous = kEnd;
    for (uint32_t t = 0; t < kTokens; ++t) {
      const int32_t token = documents[d].document.tokens[t];
      pairs.push_back(uint64_t{static_cast<uint32_t>(previous)} << 32 | static_cast<uint32_t>(token));
      previous = token;
      const std::vector<int8_t>& code = documents[d].codes.at(kLayers[0])[t];
      output.keys.codes.insert(output.keys.codes.end(), code.begin(), code.end());
      output.keys.code_scales.push_back(1);
      output.next_tokens.push_back(token);
      output.references.push_back({static_cast<uint32_t>(d), t});
    }
  }
  std::sort(pairs.begin(), pairs.end());
  tables.gate.enabled = true;
  tables.gate.pairs = pairs;
  tables.gate.is_common.assign(pairs.size(), 0);
  return tables;
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Files below `directory` whose bytes hold `needle`, by their path in it.
inline std::vector<std::string> FilesWith(const std::filesystem::path& directory, const std::string& needle) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file() || ReadBytes(entry.path()).find(needle) == std::string::npos) continue;
    found.push_back(std::filesystem::relative(entry.path(), directory).string());
  }
  return found;
}

// Whether any record of any table of truth holds `needle`, decompressed, live or overwritten.
inline bool TablesHold(const std::filesystem::path& truth, const std::string& needle) {
  bool held = false;
  for (const auto& file : std::filesystem::directory_iterator(truth)) {
    if (file.path().extension() != ".sst") continue;
    rocksdb::SstFileReader reader(rocksdb::Options{});
    EXPECT_TRUE(reader.Open(file.path()).ok()) << file.path();
    const std::unique_ptr<rocksdb::Iterator> it(reader.NewIterator({}));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      held = held || it->key().ToString().find(needle) != std::string::npos ||
             it->value().ToString().find(needle) != std::string::npos;
    }
  }
  return held;
}

class DeletionTest : public ::testing::Test {
 protected:
  // Two generations with all documents, trained kinds beside them, entries and documents in truth.
  void SetUp() override {
    auto writer = MemoryWriter::Open(path_, {.create = true});
    ASSERT_TRUE(IsOk(writer));
    EntryStore& store = writer.value()->store();
    Manifest manifest = MakeManifest();
    manifest.verdict.verdict = "adopt";
    manifest.reference_documents = 3;
    manifest.calibration_documents = manifest.test_documents = 1;
    manifest.reference_tokens = 3 * kTokens;
    for (const TestDocument& d : documents_) {
      ASSERT_TRUE(IsOk(store.PutDocument(d.document)));
      if (d.document.role == SplitRole::kTest) manifest.test_sha256.push_back(d.document.sha256);
      std::vector<StoredEntry> entries;
      for (const auto& [layer, codes] : d.codes) {
        for (uint32_t t = 0; t < codes.size(); ++t) {
          entries.push_back({.layer = layer,
                             .id = {d.document.hash, t},
                             .code = codes[t],
                             .code_scale = 0.25f,
                             .value = {codes[t].begin(), codes[t].begin() + kExperts},
                             .value_scale = 0.5f});
        }
      }
      manifest.entries += entries.size();
      ASSERT_TRUE(IsOk(store.PutEntries(entries)));
    }
    const auto tables = MakeTables(TablesOf(documents_));
    ASSERT_TRUE(IsOk(writer.value()->Publish(*tables, manifest)));
    ASSERT_TRUE(IsOk(writer.value()->Publish(*tables, manifest)));
    std::filesystem::create_directories(KindsPath(path_));
    ASSERT_TRUE(IsOk(WriteGeneration(FileSystem::Real(), KindsPath(path_) / "entries", *tables)));
    old_digest_ = Digest(*tables);
  }

  const TestDocument& Of(uint64_t hash) const {
    return *std::find_if(documents_.begin(), documents_.end(),
                         [&](const TestDocument& d) { return d.document.hash == hash; });
  }
  // Bytes that only the deleted document has, by what they are.
  std::map<std::string, std::string> Needles() const {
    const TestDocument& gone = Of(kGone);
    const std::vector<int32_t>& tokens = gone.document.tokens;
    return {{"name", gone.document.source},
            {"tag", gone.document.tags.front()},
            {"tokens", BytesOf(std::vector<int32_t>(tokens.begin() + 4, tokens.begin() + 8))},
            {"pair", BytesOf(std::vector<int32_t>{tokens[5], tokens[4]})},
            {"first pair", BytesOf(std::vector<int32_t>{tokens[0], kEnd})},
            {"key", BytesOf(gone.codes.at(0)[7])},
            {"key of the last layer", BytesOf(gone.codes.at(2)[7])}};
  }
  void ExpectGone(const std::filesystem::path& memory) {
    for (const auto& [what, bytes] : Needles()) {
      EXPECT_THAT(FilesWith(memory, bytes), ::testing::IsEmpty()) << what;
      EXPECT_FALSE(TablesHold(TruthPath(memory), bytes)) << what;
    }
  }
  // As if the memory had been built without the document, but for the empty name.
  std::string NewDigest() const {
    std::vector<TestDocument> documents = documents_;
    std::erase_if(documents, [](const TestDocument& d) { return d.document.hash == kGone; });
    return Digest(*MakeTables(TablesOf(documents)));
  }
  std::string PublishedDigest(const std::filesystem::path& memory) {
    const auto opened = Memory::Open(memory, {});
    return opened.ok() ? Digest(opened.value()->tables()) : opened.error().message;
  }
  std::filesystem::path CopyOf(const std::string& name) {
    const std::filesystem::path copy = directory_.path() / name;
    std::filesystem::remove_all(copy);
    std::filesystem::copy(path_, copy, std::filesystem::copy_options::recursive);
    return copy;
  }
  // What a crash left must be whole, the old memory or one that the same call finishes.
  void ExpectFinishes(const std::filesystem::path& memory) {
    const std::string digest = PublishedDigest(memory);
    EXPECT_TRUE(digest == old_digest_ || digest == NewDigest()) << digest;
    {
      auto writer = MemoryWriter::Open(memory, {});
      ASSERT_TRUE(IsOk(writer));
      EntryStore& store = writer.value()->store();
      const bool pending = !PendingDeletions(store).value().empty();
      const bool there = store.GetDocument(kGone).ok();
      if (!pending && there) {
        EXPECT_EQ(digest, old_digest_) << "begun, but nothing says so";
      }
      if (pending || there) {
        const auto report = DeleteDocuments(*writer.value(), std::vector{kGone});
        ASSERT_TRUE(IsOk(report));
        EXPECT_EQ(report.value().documents, there ? 1u : 0u);
      }
      EXPECT_EQ(store.GetDocument(kGone).error().code, ErrorCode::kNotFound);
      EXPECT_TRUE(store.GetDocument(kKept).ok());
      EXPECT_THAT(PendingDeletions(store).value(), ::testing::IsEmpty());
      EXPECT_EQ(writer.value()->manifest().value().reference_documents, 2u);
      EXPECT_EQ(writer.value()->manifest().value().entries, 2 * kTokens * kLayers.size());
    }
    EXPECT_EQ(PublishedDigest(memory), NewDigest());
    EXPECT_THAT(Verify(memory).value(), ::testing::IsEmpty());
    ExpectGone(memory);
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_.path() / "mem";
  const std::vector<TestDocument> documents_ = AllDocuments();
  std::string old_digest_;
};

}  // namespace pointsman
