#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "memory/fault_injection.h"
#include "memory/memory.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string DigestOf(int variant) { return Digest(*MakeSmallTables(variant)); }

// Generations 1, 2 and 3 hold variants 1, 2 and 3; 2 was adopted, 3 rejected. Document 7 came before, 8 before 3.
class RollbackTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto writer = OpenWriter({.create = true});
    ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(7))));
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(1), MakeManifest())));
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
    SetVerdict(*writer, "adopt");
    ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(8))));
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(3), MakeManifest())));
    SetVerdict(*writer, "reject");
  }
  static void SetVerdict(MemoryWriter& writer, const std::string& verdict) {
    Manifest manifest = writer.manifest().value();
    manifest.verdict.verdict = verdict;
    ASSERT_TRUE(IsOk(writer.UpdateManifest(manifest)));
  }
  std::unique_ptr<MemoryWriter> OpenWriter(WriterOptions options = {}) {
    auto writer = MemoryWriter::Open(path_, options);
    EXPECT_TRUE(IsOk(writer));
    return writer.ok() ? std::move(writer).value() : nullptr;
  }
  // Generation, verdict and digest as a reader sees them, which agree with each other.
  void ExpectPublished(uint64_t generation, const std::string& verdict) {
    const auto memory = Memory::Open(path_, {.load_to_ram = true});
    ASSERT_TRUE(IsOk(memory));
    EXPECT_EQ(memory.value()->manifest().generation, generation);
    EXPECT_EQ(memory.value()->manifest().verdict.verdict, verdict);
    EXPECT_EQ(memory.value()->manifest().digest, DigestOf(static_cast<int>(generation)));
    EXPECT_EQ(Digest(memory.value()->tables()), DigestOf(static_cast<int>(generation)));
  }

  TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "mem";
};

TEST_F(RollbackTest, GoesBackAndForthWithVerdicts) {
  const auto reader = Memory::Open(path_, {});
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(OpenWriter()->Rollback().value(), 2u);
    ExpectPublished(2, "adopt");
    EXPECT_TRUE(Verify(path_).value().empty());
    EXPECT_EQ(OpenWriter()->Rollback().value(), 3u);
    ExpectPublished(3, "reject");
    EXPECT_TRUE(Verify(path_).value().empty());
  }
  EXPECT_EQ(Digest(reader.value()->tables()), DigestOf(3)) << "an open reader lost its generation";
  EXPECT_EQ(OpenWriter()->store().GetDocument(8).value().source, MakeDocument(8).source) << "truth goes nowhere";
}

TEST_F(RollbackTest, KnowsTheKeptGenerationByItsNumber) {
  const auto writer = OpenWriter();
  EXPECT_EQ(writer->Rollback(3).value(), 3u) << "published already";
  const auto gone = writer->Rollback(1);
  ASSERT_FALSE(gone.ok());
  EXPECT_EQ(gone.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(gone.error().message, HasSubstr("only 2 is kept"));
  EXPECT_EQ(writer->Rollback(4).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(writer->Rollback(2).value(), 2u);
  ExpectPublished(2, "adopt");
}

TEST_F(RollbackTest, IsFollowedByANumberNeverUsed) {
  const auto writer = OpenWriter();
  ASSERT_TRUE(IsOk(writer->Rollback()));
  ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(4), MakeManifest())));
  EXPECT_EQ(writer->manifest().value().generation, 4u);
  EXPECT_EQ(writer->Rollback().value(), 2u) << "what was published before, not the next lower number";
  ExpectPublished(2, "adopt");
  EXPECT_FALSE(fs::exists(path_ / "derived/gen-003"));
  ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(5), MakeManifest())));
  EXPECT_EQ(writer->manifest().value().generation, 5u);
}

TEST_F(RollbackTest, NeedsAGenerationToGoTo) {
  const fs::path other = directory_.path() / "other";
  auto writer = MemoryWriter::Open(other, {.create = true});
  EXPECT_EQ(writer.value()->Rollback().error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(IsOk(writer.value()->Publish(*MakeSmallTables(1), MakeManifest())));
  const auto none = writer.value()->Rollback();
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(none.error().message, HasSubstr("no other is kept"));
}

TEST_F(RollbackTest, DoesNotBringADeletedDocumentBack) {
  const auto writer = OpenWriter();
  ASSERT_TRUE(IsOk(writer->store().DeleteDocument(7)));
  const auto refused = writer->Rollback();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("0000000000000007"));
  ExpectPublished(3, "reject");
  ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(7))));
  EXPECT_TRUE(IsOk(writer->Rollback()));
}

TEST_F(RollbackTest, RefusesADamagedGeneration) {
  FlipBitInFile(path_ / "derived/gen-002/gate.bin", 100);
  const auto refused = OpenWriter()->Rollback();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(refused.error().message, HasSubstr("gate.bin"));
  ExpectPublished(3, "reject");
}

TEST_F(RollbackTest, WhatIsPublishedAfterItIsRepairedFromTruth) {
  ASSERT_TRUE(IsOk(OpenWriter()->Rollback()));
  const std::string bytes = ReadBytes(path_ / "derived/gen-002/gate.bin");
  const std::string manifest = ReadBytes(path_ / "MANIFEST.json");
  FlipBitInFile(path_ / "derived/gen-002/gate.bin", 100);
  fs::remove(path_ / "MANIFEST.json");
  EXPECT_TRUE(IsOk(OpenWriter()->RebuildDerived()));
  EXPECT_EQ(ReadBytes(path_ / "derived/gen-002/gate.bin"), bytes);
  EXPECT_EQ(ReadBytes(path_ / "MANIFEST.json"), manifest);
}

class FailingRollback : public RollbackTest, public ::testing::WithParamInterface<FaultyFileSystem::Operation> {};

TEST_P(FailingRollback, PublishesOneOfTheTwoAndCanBeRepeated) {
  FaultyFileSystem files;
  for (int nth = 1; nth < 50; ++nth) {
    const auto writer = OpenWriter({.files = &files});
    files.FailFrom(GetParam(), nth);
    const auto done = writer->Rollback(2);
    files.Heal();
    const uint64_t now = writer->manifest().value().generation;
    ExpectPublished(now, now == 2 ? "adopt" : "reject");
    if (done.ok()) break;
    if (now == 2) {  // renamed, then the sync failed
      ASSERT_TRUE(IsOk(writer->Rollback(3)));
    }
  }
  ExpectPublished(2, "adopt");
  EXPECT_TRUE(Verify(path_).value().empty());
  ASSERT_TRUE(IsOk(OpenWriter()->Rollback(3)));
  ExpectPublished(3, "reject");
}

INSTANTIATE_TEST_SUITE_P(EveryOperation, FailingRollback,
                         ::testing::Values(FaultyFileSystem::Operation::kCreate, FaultyFileSystem::Operation::kWrite,
                                           FaultyFileSystem::Operation::kSync, FaultyFileSystem::Operation::kRename,
                                           FaultyFileSystem::Operation::kSyncDirectory,
                                           FaultyFileSystem::Operation::kRemove));

TEST_F(RollbackTest, CompactingFreesWhatWasDeletedAndKeepsTheRest) {
  {
    const auto writer = OpenWriter();
    for (uint64_t number = 100; number < 400; ++number) {
      Document document = MakeDocument(number);
      for (int32_t token = 0; token < 500; ++token) {
        document.tokens.push_back(
            static_cast<int32_t>((number * 7919 + static_cast<uint64_t>(token) * 104729) % 50000));
      }
      document.loss_mask.clear();
      ASSERT_TRUE(IsOk(writer->store().PutDocument(document)));
    }
    for (uint64_t number = 100; number < 390; ++number) ASSERT_TRUE(IsOk(writer->store().DeleteDocument(number)));
  }
  fs::create_directories(path_.string() + ".restoring.tmp/truth");
  WriteBytes(path_.string() + ".restoring.tmp/truth/1", std::string(5000, 'x'));
  fs::create_directories(path_ / "derived/gen-009.tmp");
  const auto report = CompactMemory(path_.string() + "/");
  ASSERT_TRUE(IsOk(report));
  EXPECT_GT(report.value().bytes_before, 290u * 1000);
  EXPECT_LT(report.value().bytes_after, report.value().bytes_before / 4);
  EXPECT_FALSE(fs::exists(path_.string() + ".restoring.tmp"));
  EXPECT_FALSE(fs::exists(path_ / "derived/gen-009.tmp"));
  EXPECT_TRUE(Verify(path_).value().empty());
  ExpectPublished(3, "reject");
  const auto writer = OpenWriter();
  EXPECT_EQ(writer->store().GetDocument(399).value().tokens.size(), 503u);
  EXPECT_EQ(CompactMemory(path_).error().code, ErrorCode::kBusy);
  EXPECT_EQ(CompactMemory(directory_.path() / "nowhere").error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace pointsman
