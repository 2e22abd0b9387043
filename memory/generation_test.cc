#include "memory/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "memory/fault_injection.h"
#include "memory/hash.h"
#include "memory/memory.h"
#include "memory/routing_tables_owned.h"
#include "memory/section_file.h"

namespace pointsman {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A small memory of prototypes that uses every optional part: two layers, gate, projection, delta, token table and
// output memory.
class GenerationOfPrototypes : public testing::Test {
 protected:
  static constexpr uint32_t kHidden = 12, kDim = 5, kExperts = 6, kVocabulary = 9;

  void SetUp() override {
    directory_ =
        std::filesystem::path(testing::TempDir()) / ("generation_test." + std::to_string(::getpid()) + "." +
                                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    tables_ = MakeTables(Owned());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

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
  std::filesystem::path directory_;
  FaultyFileSystem files_;
  std::shared_ptr<const RoutingTables> tables_;
};

template <typename T>
std::vector<T> Copy(std::span<const T> values) {
  return {values.begin(), values.end()};
}

void ExpectSameKeys(const KeyIndexView& a, const KeyIndexView& b) {
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.dim, b.dim);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(Copy(a.mean), Copy(b.mean));
  EXPECT_EQ(Copy(a.projection), Copy(b.projection));
  EXPECT_EQ(Copy(a.codes), Copy(b.codes));
  EXPECT_EQ(Copy(a.code_scales), Copy(b.code_scales));
}

void ExpectSameTables(const RoutingTables& a, const RoutingTables& b) {
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

TEST_F(GenerationOfPrototypes, ComesBackAsItWasWrittenMappedOrInRam) {
  ASSERT_TRUE(Write().ok());
  EXPECT_EQ(FileNames(),
            (std::vector<std::string>{"documents.bin", "gate.bin", "layer-001.bin", "layer-003.bin", "output.bin"}));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "gen-001.tmp"));
  for (bool to_ram : {false, true}) {
    for (bool verify : {false, true}) {
      auto mapped = Map(to_ram, verify);
      ASSERT_TRUE(mapped.ok()) << mapped.error().message;
      ExpectSameTables(mapped.value(), *tables_);
      EXPECT_EQ(Digest(mapped.value()), Digest(*tables_));
    }
  }
}

// What older versions wrote and read: no file and no section of the output memory.
TEST_F(GenerationOfPrototypes, WithoutAnOutputMemoryNoFileAndNoSectionOfItIsThere) {
  OwnedTables owned = Owned();
  owned.output = {};
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  EXPECT_EQ(FileNames(), (std::vector<std::string>{"documents.bin", "gate.bin", "layer-001.bin", "layer-003.bin"}));
  const auto documents = SectionFile::Open(files_, path() / "documents.bin", DerivedKind::kDocuments, {});
  ASSERT_TRUE(documents.ok());
  EXPECT_FALSE(documents.value().Has(SectionType::kParts));
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  ExpectSameTables(mapped.value(), *tables_);
}

OwnedGate Grouped(OwnedGate gate) {
  gate.groups = {{.name = "headers", .prior = 0.1f, .lo = 0.2f, .hi = 0.6f},
                 {.name = "sums", .prior = 0.3f, .lo = 0.4f, .hi = 0.5f}};
  gate.pair_groups = {1, 3, 2};
  return gate;
}

TEST_F(GenerationOfPrototypes, GroupsOfTheGateComeBack) {
  OwnedTables owned = Owned();
  const std::string one_group = Digest(*MakeTables(owned));
  owned.gate = Grouped(owned.gate);
  tables_ = MakeTables(owned);
  EXPECT_NE(Digest(*tables_), one_group);
  ASSERT_TRUE(Write().ok());
  const auto mapped = Map();
  ASSERT_TRUE(mapped.ok()) << mapped.error().message;
  ExpectSameTables(mapped.value(), *tables_);
  EXPECT_EQ(Digest(mapped.value()), Digest(*tables_));
}

// A version that knows no groups must refuse, not open the gate for one group's ramp on the pairs of all.
TEST_F(GenerationOfPrototypes, GroupsOfTheGateAreAPartThatReadersMustKnow) {
  OwnedTables owned = Owned();
  owned.gate = Grouped(owned.gate);
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  const auto documents = SectionFile::Open(files_, path() / "documents.bin", DerivedKind::kDocuments, {});
  ASSERT_TRUE(documents.ok());
  EXPECT_THAT(Copy(documents.value().Get<uint32_t>(SectionType::kParts, 2, 1).value()), ::testing::ElementsAre(1u, 2u));
}

// What was written before there were groups: no section of theirs, and the digest that such tables had.
TEST_F(GenerationOfPrototypes, AGateOfOneGroupIsWhatItWasBeforeThereWereGroups) {
  OwnedTables owned;
  owned.gate = {.enabled = true,
                .n0 = 2,
                .common = 0.5f,
                .window = 50,
                .groups = {{.name = "", .prior = 0.125f, .lo = 0.25f, .hi = 0.5f}},
                .pairs = {3, uint64_t{1} << 32 | 7},
                .is_common = {0, 1},
                .pair_groups = {}};
  tables_ = MakeTables(owned);
  EXPECT_EQ(Digest(*tables_), "fe7bae33d8f1f8d11f22f43a3fa156c9");
  ASSERT_TRUE(Write().ok());
  const auto gate = SectionFile::Open(files_, path() / "gate.bin", DerivedKind::kGate, {});
  ASSERT_TRUE(gate.ok());
  for (const SectionType type :
       {SectionType::kNameOffsets, SectionType::kNames, SectionType::kGateRamps, SectionType::kPairGroups}) {
    EXPECT_FALSE(gate.value().Has(type)) << static_cast<uint32_t>(type);
  }
}

TEST_F(GenerationOfPrototypes, StaysReadableAfterItsFilesWereRemoved) {
  ASSERT_TRUE(Write().ok());
  auto mapped = Map();
  ASSERT_TRUE(mapped.ok());
  std::filesystem::remove_all(path());
  const RoutingTables copy = mapped.value();
  mapped = Error{};
  ExpectSameTables(copy, *tables_);  // storage keeps the mappings
}

TEST_F(GenerationOfPrototypes, ArraysLieOnCacheLines) {
  ASSERT_TRUE(Write().ok());
  auto mapped = Map(true);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mapped.value().layers[1].keys.codes.data()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mapped.value().layers[1].references.data()) % 64, 0u);
}

TEST_F(GenerationOfPrototypes, TheSameTablesGiveTheSameBytes) {
  ASSERT_TRUE(Write().ok());
  ASSERT_TRUE(WriteGeneration(files_, directory_ / "gen-002", *tables_).ok());
  for (const std::string& name : FileNames()) {
    EXPECT_EQ(files_.ReadFile(path() / name).value(), files_.ReadFile(directory_ / "gen-002" / name).value()) << name;
  }
}

TEST_F(GenerationOfPrototypes, EmptyMemoriesAndEmptyLayersAreWritable) {
  OwnedTables owned;
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  auto nothing = Map();
  ASSERT_TRUE(nothing.ok()) << nothing.error().message;
  EXPECT_TRUE(nothing.value().layers.empty());

  owned.layers.push_back(Layer(0, 0));
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());  // replaces the first
  auto empty_layer = Map();
  ASSERT_TRUE(empty_layer.ok()) << empty_layer.error().message;
  ExpectSameTables(empty_layer.value(), *tables_);
}

TEST_F(GenerationOfPrototypes, AFlippedBitAnywhereIsRefused) {
  ASSERT_TRUE(Write().ok());
  for (const std::string& name : FileNames()) {
    const uint64_t size = std::filesystem::file_size(path() / name);
    // Every byte of the header and the table, then a stride that visits every section, the padding and the footer.
    for (uint64_t offset = 0; offset < size; offset += offset < 640 ? 1 : 5) {
      files_.FlipBit(name, offset, static_cast<int>(offset % 8));
      auto mapped = Map();
      ASSERT_FALSE(mapped.ok()) << name << " at " << offset;
      EXPECT_THAT(mapped.error().message, AllOf(HasSubstr(name), HasSubstr("verify --repair"))) << offset;
    }
  }
}

TEST_F(GenerationOfPrototypes, AFileCutOffAnywhereIsRefused) {
  ASSERT_TRUE(Write().ok());
  for (const std::string& name : FileNames()) {
    const uint64_t size = std::filesystem::file_size(path() / name);
    std::set<uint64_t> cuts = {0, 1, 63, size - 8, size - 1};
    for (uint64_t cut = 64; cut < size; cut += 64) cuts.insert({cut - 1, cut, cut + 1});  // sections begin at 64s
    for (bool verify : {true, false}) {
      for (uint64_t cut : cuts) {
        if (cut >= size) continue;
        files_.Truncate(name, cut);
        auto mapped = Map(false, verify);
        ASSERT_FALSE(mapped.ok()) << name << " cut at " << cut;
        EXPECT_EQ(mapped.error().code, ErrorCode::kCorrupt);
        EXPECT_THAT(mapped.error().message, AllOf(HasSubstr(name), HasSubstr("verify --repair")));
      }
    }
    files_.Heal();
  }
}

TEST_F(GenerationOfPrototypes, AMissingFileIsNamed) {
  for (const std::string name : {"layer-003.bin", "output.bin"}) {
    ASSERT_TRUE(Write().ok());
    std::filesystem::remove(path() / name);
    auto mapped = Map();
    ASSERT_FALSE(mapped.ok());
    EXPECT_EQ(mapped.error().code, ErrorCode::kNotFound);
    EXPECT_THAT(mapped.error().message, AllOf(HasSubstr(name), HasSubstr("verify --repair")));
  }
}

TEST_F(GenerationOfPrototypes, FilesOfTwoGenerationsDoNotMix) {
  ASSERT_TRUE(Write().ok());
  tables_ = MakeTables(Owned());  // other random numbers, the same shapes
  ASSERT_TRUE(WriteGeneration(files_, directory_ / "gen-002", *tables_).ok());
  std::filesystem::copy(directory_ / "gen-002/layer-003.bin", path() / "layer-003.bin",
                        std::filesystem::copy_options::overwrite_existing);
  auto mapped = Map();
  ASSERT_FALSE(mapped.ok());
  EXPECT_THAT(mapped.error().message, AllOf(HasSubstr("layer-003.bin"), HasSubstr("another generation")));
}

// A stranger's file: any byte of header, table and parameters may be anything, and every hash can be made to fit.
TEST_F(GenerationOfPrototypes, HostileNumbersWithFittingHashesAreRefusedOrHarmless) {
  OwnedTables owned = Owned();
  owned.gate = Grouped(owned.gate);
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  const std::pair<std::string, size_t> files[] = {
      {"layer-001.bin", 12}, {"output.bin", 7}, {"gate.bin", 7}, {"documents.bin", 5}};
  for (const auto& [name, section_count] : files) {
    const std::string original = files_.ReadFile(path() / name).value();
    const size_t parameters = 64 + 32 * section_count;  // the first section begins at the next 64
    for (size_t offset = 8; offset + 8 <= parameters + 128; offset += 4) {
      for (uint64_t number : kHostile) {
        std::string bytes = original;
        std::memcpy(bytes.data() + offset, &number, offset % 8 == 0 ? 8 : 4);
        ExpectRefusedOrHarmless(name, bytes, offset);
      }
    }
    Overwrite(name, original);
  }
}

// Two numbers that are wrong together: a section without rows, and a parameter that counts them.
TEST_F(GenerationOfPrototypes, CountsOfSectionsThatAreEmptyAreRefusedOrHarmless) {
  OwnedTables owned = Owned();
  owned.gate = Grouped(owned.gate);
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  const std::pair<std::string, size_t> files[] = {{"gate.bin", 7}, {"documents.bin", 5}};
  for (const auto& [name, section_count] : files) {
    const std::string original = files_.ReadFile(path() / name).value();
    for (size_t section = 1; section < section_count; ++section) {
      std::string empty = original;
      const uint64_t none = 0;
      std::memcpy(empty.data() + 64 + 32 * section + 16, &none, sizeof none);
      const size_t parameters = (64 + 32 * section_count + 63) / 64 * 64;
      for (size_t offset = parameters; offset < parameters + 40; offset += 4) {
        for (uint64_t number : kHostile) {
          std::string bytes = empty;
          std::memcpy(bytes.data() + offset, &number, offset % 8 == 0 ? 8 : 4);
          ExpectRefusedOrHarmless(name, bytes, offset);
        }
      }
    }
    Overwrite(name, original);
  }
}

TEST_F(GenerationOfPrototypes, AFullDiskLeavesNothingBehind) {
  ASSERT_TRUE(Write().ok());
  uint64_t size = 0;
  for (const std::string& name : FileNames()) size += std::filesystem::file_size(path() / name);
  for (uint64_t room = 0; room < size; room += 997) {
    files_.LimitBytes(room);
    const Status full = WriteGeneration(files_, directory_ / "gen-002", *tables_);
    ASSERT_FALSE(full.ok()) << room;
    EXPECT_EQ(full.error().code, ErrorCode::kNoSpace);
    EXPECT_THAT(full.error().message, AllOf(HasSubstr("gen-002.tmp/"), HasSubstr("No space left"), HasSubstr("free")));
    EXPECT_EQ(FileSystem::Real().List(directory_).value(), std::vector<std::string>{"gen-001"});
  }
  files_.Heal();
  EXPECT_TRUE(Map().ok());
}

TEST_F(GenerationOfPrototypes, AnyFailedOperationLeavesTheGenerationAbsentOrComplete) {
  using Operation = FaultyFileSystem::Operation;
  for (Operation operation : {Operation::kCreate, Operation::kWrite, Operation::kSync, Operation::kRename}) {
    for (int nth = 1;; ++nth) {
      std::filesystem::remove_all(path());
      files_.Heal();
      files_.FailFrom(operation, nth);
      const Status written = Write();
      files_.Heal();
      if (written.ok()) {
        EXPECT_TRUE(Map().ok());
        EXPECT_GT(nth, 1);
        break;
      }
      EXPECT_FALSE(std::filesystem::exists(path())) << nth;
    }
  }
}

TEST_F(GenerationOfPrototypes, FilesOfSeveralBlocksAreCheckedBlockByBlock) {
  OwnedTables owned;
  owned.layers.push_back(Layer(0, 20000));
  owned.layers[0].references.clear();
  tables_ = MakeTables(owned);
  ASSERT_TRUE(Write().ok());
  ASSERT_TRUE(Map().ok());
  const uint64_t size = std::filesystem::file_size(path() / "layer-000.bin");
  ASSERT_GT(size, 4 * kDerivedBlockBytes);
  for (uint64_t offset = 100; offset < size; offset += kDerivedBlockBytes / 2) {
    files_.FlipBit("layer-000.bin", offset, 3);
    auto mapped = Map();
    ASSERT_FALSE(mapped.ok()) << offset;
    EXPECT_THAT(mapped.error().message, HasSubstr("block " + std::to_string(offset / kDerivedBlockBytes) + " of"));
  }
}

TEST_F(GenerationOfPrototypes, AnotherFormatVersionIsNotCalledDamage) {
  ASSERT_TRUE(Write().ok());
  const std::string bytes = files_.ReadFile(path() / "gate.bin").value();
  for (const auto& [version, remedy] : {std::pair(kDerivedVersion + 1, "use a newer pointsman"),
                                        std::pair(kDerivedVersion - 1, "build the memory again")}) {
    std::string other = bytes;
    other[8] = static_cast<char>(version);
    Overwrite("gate.bin", other);
    auto mapped = Map();
    ASSERT_FALSE(mapped.ok());
    EXPECT_EQ(mapped.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(mapped.error().message, HasSubstr("format version " + std::to_string(version)));
    EXPECT_THAT(mapped.error().message, HasSubstr(remedy));
  }
}

TEST_F(GenerationOfPrototypes, TablesThatDoNotHoldTogetherAreNotWritten) {
  OwnedTables owned = Owned();
  owned.layers[1].references[0].document = 2;
  tables_ = MakeTables(owned);
  const Status written = Write();
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().message, "layer 3: a reference names no document");
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

}  // namespace
}  // namespace pointsman
