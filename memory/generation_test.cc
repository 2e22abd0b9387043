#include "memory/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "memory/test_generation.h"

namespace pointsman {
namespace {

using testing::AllOf;
using testing::HasSubstr;

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
  tables_ = MakeTables(WithGroups(WithTokenIds(Owned())));
  ASSERT_TRUE(Write().ok());
  const std::pair<std::string, size_t> files[] = {
      {"layer-001.bin", 13}, {"output.bin", 7}, {"gate.bin", 7}, {"documents.bin", 5}};
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
  tables_ = MakeTables(WithGroups(WithTokenIds(Owned())));
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
