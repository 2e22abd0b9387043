// Damage to a memory on disk: found by Verify and Open, named, and repaired from truth where truth has a copy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class MemoryToDamage : public ::testing::Test {
 protected:
  void SetUp() override {
    auto writer = MemoryWriter::Open(path_, {.create = true});
    ASSERT_TRUE(IsOk(writer));
    ASSERT_TRUE(IsOk(writer.value()->store().PutDocument(MakeDocument(7))));
    ASSERT_TRUE(IsOk(writer.value()->Publish(*MakeSmallTables(1), MakeManifest())));
    for (const auto& file : fs::directory_iterator(path_ / "derived" / "gen-001")) derived_.push_back(file.path());
    ASSERT_GE(derived_.size(), 3u);
  }
  Status Repair() {
    POINTSMAN_TRY(const std::unique_ptr<MemoryWriter> writer, MemoryWriter::Open(path_, {}));
    return writer->RebuildDerived();
  }
  std::vector<std::string> Files() {
    std::vector<std::string> files;
    const auto findings = Verify(path_);
    EXPECT_TRUE(IsOk(findings));
    for (const Finding& finding : findings.value()) files.push_back(finding.file);
    return files;
  }
  // `damage` changes the file; opening must fail naming it, repair must restore its bytes.
  void ExpectFoundAndRepaired(const fs::path& file, const std::function<void()>& damage) {
    const std::string original = ReadBytes(file);
    damage();
    const auto opened = Memory::Open(path_, {});
    ASSERT_FALSE(opened.ok()) << file << " was damaged unnoticed";
    EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt) << opened.error().message;
    EXPECT_THAT(opened.error().message, HasSubstr(file.filename().string()));
    EXPECT_THAT(opened.error().message, HasSubstr("`pointsman verify --repair"));
    EXPECT_EQ(opened.error().message.find('\n'), std::string::npos);
    EXPECT_EQ(Files().size(), 1u);
    ASSERT_TRUE(IsOk(Repair()));
    EXPECT_EQ(ReadBytes(file), original);
    EXPECT_TRUE(Files().empty());
    EXPECT_TRUE(IsOk(Memory::Open(path_, {})));
  }

  TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "mem";
  std::vector<fs::path> derived_;
};

TEST_F(MemoryToDamage, ADamagedDerivedFileIsFoundAndRestoredBitForBit) {
  for (const fs::path& file : derived_) {
    SCOPED_TRACE(file);
    const size_t size = ReadBytes(file).size();
    for (size_t offset : {size_t{0}, size / 3, size - 1}) {
      ExpectFoundAndRepaired(file, [&] { FlipBitInFile(file, offset); });
    }
    ExpectFoundAndRepaired(file, [&] { WriteBytes(file, ReadBytes(file).substr(0, size / 2)); });
    ExpectFoundAndRepaired(file, [&] { WriteBytes(file, ""); });
    ExpectFoundAndRepaired(file, [&] { fs::remove(file); });
  }
}

TEST_F(MemoryToDamage, AMissingGenerationIsRestored) {
  fs::remove_all(path_ / "derived");
  EXPECT_THAT(MessageOf(Memory::Open(path_, {})), HasSubstr("gen-001: missing; run `pointsman verify --repair"));
  ASSERT_TRUE(IsOk(Repair()));
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  EXPECT_EQ(Digest(memory.value()->tables()), Digest(*MakeSmallTables(1)));
}

TEST_F(MemoryToDamage, ADamagedManifestIsFoundAndRestored) {
  const fs::path manifest = path_ / "MANIFEST.json";
  ExpectFoundAndRepaired(manifest, [&] { FlipBitInFile(manifest, 0); });
  ExpectFoundAndRepaired(manifest, [&] { WriteBytes(manifest, ReadBytes(manifest).substr(0, 200)); });
  ExpectFoundAndRepaired(manifest, [&] { WriteBytes(manifest, ""); });
}

TEST_F(MemoryToDamage, ALostManifestIsRestored) {
  const std::string original = ReadBytes(path_ / "MANIFEST.json");
  fs::remove(path_ / "MANIFEST.json");
  EXPECT_THAT(MessageOf(Memory::Open(path_, {})), HasSubstr("not a memory (no MANIFEST.json)"));
  ASSERT_TRUE(IsOk(Repair()));
  EXPECT_EQ(ReadBytes(path_ / "MANIFEST.json"), original);
}

TEST_F(MemoryToDamage, NothingIsPublishedOverADamagedManifest) {
  FlipBitInFile(path_ / "MANIFEST.json", 0);
  auto writer = MemoryWriter::Open(path_, {});
  ASSERT_TRUE(IsOk(writer));
  const Status status = writer.value()->Publish(*MakeSmallTables(2), MakeManifest());
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("verify --repair"));
}

TEST_F(MemoryToDamage, AnotherMemorysGenerationIsNotTakenForThisOnes) {
  const fs::path other = directory_.path() / "other";
  {
    auto writer = MemoryWriter::Open(other, {.create = true});
    ASSERT_TRUE(IsOk(writer.value()->Publish(*MakeSmallTables(5), MakeManifest())));
  }
  for (const fs::path& file : derived_) {
    fs::copy_file(other / "derived" / "gen-001" / file.filename(), file, fs::copy_options::overwrite_existing);
  }
  const auto findings = Verify(path_).value();
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_THAT(findings[0].problem, HasSubstr("digest"));
  ASSERT_TRUE(IsOk(Repair()));
  EXPECT_TRUE(Files().empty());
}

TEST_F(MemoryToDamage, RepairOfASoundMemoryChangesNothing) {
  const auto before = fs::last_write_time(derived_[0]);
  const std::string manifest = ReadBytes(path_ / "MANIFEST.json");
  ASSERT_TRUE(IsOk(Repair()));
  EXPECT_EQ(fs::last_write_time(derived_[0]), before);
  EXPECT_EQ(ReadBytes(path_ / "MANIFEST.json"), manifest);
}

// Truth cannot be repaired, but its damage is named, refused by writers before RocksDB touches it, and does not keep
// readers from routing.
TEST_F(MemoryToDamage, DamageToTruthIsNamedAndNothingIsDeleted) {
  const fs::path truth = path_ / "truth";
  for (const auto& entry : fs::directory_iterator(truth)) {
    const fs::path file = entry.path();
    const std::string name = file.filename().string();
    const std::string original = ReadBytes(file);
    const bool is_data = name.ends_with(".log") || name.ends_with(".sst") || name.starts_with("MANIFEST");
    if ((!is_data && name != "CURRENT") || original.empty()) continue;
    SCOPED_TRACE(file);
    for (const std::string& damaged : {original.substr(0, original.size() / 2), std::string("CORRUPT\n")}) {
      WriteBytes(file, damaged);
      const auto findings = Verify(path_).value();
      ASSERT_EQ(findings.size(), 1u);
      EXPECT_EQ(findings[0].file, truth.string());
      const auto writer = MemoryWriter::Open(path_, {});
      ASSERT_FALSE(writer.ok());
      EXPECT_EQ(writer.error().code, ErrorCode::kCorrupt) << writer.error().message;
      EXPECT_THAT(writer.error().message, HasSubstr(truth.string()));
      EXPECT_EQ(ReadBytes(file), damaged);
      EXPECT_TRUE(IsOk(Memory::Open(path_, {})));
    }
    WriteBytes(file, original);
    EXPECT_TRUE(Files().empty());
  }
}

}  // namespace
}  // namespace pointsman
