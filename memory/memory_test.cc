#include "memory/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "memory/fault_injection.h"
#include "memory/full_disk_env.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class MemoryDirectory : public ::testing::Test {
 protected:
  std::unique_ptr<MemoryWriter> OpenWriter(WriterOptions options = {.create = true}) {
    auto writer = MemoryWriter::Open(path_, options);
    EXPECT_TRUE(IsOk(writer));
    return writer.ok() ? std::move(writer).value() : nullptr;
  }
  // The digest of what readers see, or the error's text.
  std::string PublishedDigest() {
    const auto memory = Memory::Open(path_, {.load_to_ram = true});
    return memory.ok() ? Digest(memory.value()->tables()) : memory.error().message;
  }
  std::string DigestOf(int variant) { return Digest(*MakeSmallTables(variant)); }
  bool Exists(const std::string& name) { return fs::exists(path_ / name); }

  TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "mem";
};

// Generation 1 holds variant 1; truth holds document 7 with one entry.
class PublishedMemory : public MemoryDirectory {
 protected:
  void SetUp() override {
    const auto writer = OpenWriter();
    ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(7))));
    ASSERT_TRUE(IsOk(writer->store().PutEntries(std::vector{MakeEntry(0, 7, 1)})));
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(1), MakeManifest())));
  }
};

TEST_F(PublishedMemory, OpensWithWhatWasPublished) {
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  const Manifest& manifest = memory.value()->manifest();
  EXPECT_EQ(manifest.generation, 1u);
  EXPECT_EQ(manifest.kind, MemoryKind::kPrototypes);
  EXPECT_EQ(manifest.digest, DigestOf(1));
  EXPECT_GE(manifest.truth_sequence, 3u);
  EXPECT_EQ(memory.value()->tables().layers.size(), 2u);
  const MemoryStats stats = memory.value()->stats();
  EXPECT_EQ(stats.generation, 1u);
  EXPECT_EQ(stats.rows, 12u);
  EXPECT_GT(stats.derived_bytes, 100u);
  EXPECT_GT(stats.truth_bytes, 100u);
  EXPECT_TRUE(Verify(path_).value().empty());
}

// The small tables with an output memory of two entries.
std::shared_ptr<const RoutingTables> WithOutput() {
  OwnedTables tables;
  tables.kind = MemoryKind::kPrototypes;
  tables.documents = {"corpus/1.txt"};
  tables.output.enabled = true;
  tables.output.vocabulary = 100;
  tables.output.lambda = 0.3f;
  tables.output.keys.hidden = tables.output.keys.dim = 4;
  tables.output.keys.SetKeys({1, 0, 0, 0, 0, 1, 0, 0});
  tables.output.next_tokens = {42, 99};
  tables.output.references = {{0, 1}, {0, 2}};
  return MakeTables(std::move(tables));
}

TEST_F(PublishedMemory, AnOutputMemoryIsPublishedAndRepaired) {
  const auto writer = OpenWriter();
  ASSERT_TRUE(IsOk(writer->Publish(*WithOutput(), MakeManifest())));
  const fs::path file = path_ / "derived/gen-002/output.bin";
  const std::string bytes = ReadBytes(file);
  FlipBitInFile(file, bytes.size() / 2);
  EXPECT_THAT(MessageOf(Memory::Open(path_, {})), HasSubstr("output.bin"));
  ASSERT_TRUE(IsOk(writer->RebuildDerived()));
  EXPECT_EQ(ReadBytes(file), bytes);
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  EXPECT_EQ(memory.value()->tables().output.next_tokens[1], 99);
  EXPECT_EQ(Digest(memory.value()->tables()), Digest(*WithOutput()));
}

TEST_F(PublishedMemory, KeepsTheTwoNewestGenerationsAndOneCopyInTruth) {
  const auto writer = OpenWriter();
  ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
  const auto reader = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(3), MakeManifest())));
  ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(4), MakeManifest())));
  EXPECT_FALSE(Exists("derived/gen-001"));
  EXPECT_FALSE(Exists("derived/gen-002"));
  EXPECT_TRUE(Exists("derived/gen-003"));
  EXPECT_TRUE(Exists("derived/gen-004"));
  EXPECT_EQ(PublishedDigest(), DigestOf(4));
  EXPECT_EQ(Digest(reader.value()->tables()), DigestOf(2)) << "an open reader lost its generation";
  const auto keys = writer->store().ListSettings("derived/");
  for (const std::string& key : keys.value()) {
    EXPECT_THAT(key, HasSubstr("gen-004"));
  }
}

TEST_F(PublishedMemory, UpdatingTheManifestKeepsWhatIsPublished) {
  const auto writer = OpenWriter();
  Manifest manifest = writer->manifest().value();
  manifest.verdict.verdict = "adopt";
  manifest.generation = 99;
  manifest.digest = "";
  ASSERT_TRUE(IsOk(writer->UpdateManifest(manifest)));
  const auto memory = Memory::Open(path_, {});
  ASSERT_TRUE(IsOk(memory));
  EXPECT_EQ(memory.value()->manifest().verdict.verdict, "adopt");
  EXPECT_EQ(memory.value()->manifest().generation, 1u);
  EXPECT_EQ(memory.value()->manifest().digest, DigestOf(1));

  manifest.verdict.verdict = "certainly";
  const Status refused = writer->UpdateManifest(manifest);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("$.verdict.verdict"));
  EXPECT_EQ(writer->manifest().value().verdict.verdict, "adopt");
}

TEST_F(PublishedMemory, TwoWritersAtOnceAreBusyAndReadersAreNot) {
  const auto writer = OpenWriter();
  const auto second = MemoryWriter::Open(path_, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  EXPECT_THAT(second.error().message, HasSubstr("process " + std::to_string(getpid())));
  EXPECT_THAT(second.error().message, HasSubstr(path_.string()));
  EXPECT_EQ(Verify(path_).error().code, ErrorCode::kBusy);
  EXPECT_EQ(PublishedDigest(), DigestOf(1));
}

TEST_F(PublishedMemory, ItsTruthCanBeReadBesideAWriterButNotWritten) {
  const auto writer = OpenWriter();
  const auto memory = Memory::Open(path_, {});
  const auto truth = memory.value()->OpenTruth();
  ASSERT_TRUE(IsOk(truth));
  EXPECT_EQ(truth.value()->GetDocument(7).value().source, MakeDocument(7).source);
  ASSERT_TRUE(IsOk(writer->store().DeleteDocument(7)));
  EXPECT_TRUE(IsOk(truth.value()->GetDocument(7))) << "a reader's view changed under it";
  const Status refused = truth.value()->PutDocument(MakeDocument(8));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("opened for reading"));
  EXPECT_EQ(truth.value()->DeleteDocument(7).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(PublishedMemory, ChecksTheModelFieldByField) {
  const auto memory = Memory::Open(path_, {});
  Fingerprint model = MakeManifest().fingerprint;
  EXPECT_EQ(memory.value()->CheckFingerprint(model).value(), "");
  model.dtype = "float32";
  EXPECT_THAT(memory.value()->CheckFingerprint(model).value(), HasSubstr("bfloat16 (memory) != float32 (model)"));
  model.architecture = "mixtral";
  model.router_sha256 = std::string(64, 'f');
  const auto mismatch = memory.value()->CheckFingerprint(model);
  ASSERT_FALSE(mismatch.ok());
  EXPECT_EQ(mismatch.error().code, ErrorCode::kMismatch);
  EXPECT_THAT(mismatch.error().message, HasSubstr("architecture olmoe (memory) != mixtral (model)"));
  EXPECT_THAT(mismatch.error().message,
              HasSubstr("router_sha256 2222222222222222 (memory) != ffffffffffffffff (model)"));
  EXPECT_THAT(mismatch.error().message, ::testing::Not(HasSubstr("config_sha256")));
}

TEST_F(MemoryDirectory, ThatIsNotThereIsNotFoundAndStaysAbsent) {
  EXPECT_EQ(MemoryWriter::Open(path_, {}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(Memory::Open(path_, {}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(Verify(path_).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(MemoryDirectory, OfForeignFilesIsLeftAlone) {
  fs::create_directories(path_);
  WriteBytes(path_ / "letter.tmp", "dear");
  const auto writer = MemoryWriter::Open(path_, {.create = true});
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(writer.error().message, HasSubstr("letter.tmp"));
  EXPECT_EQ(ReadBytes(path_ / "letter.tmp"), "dear");
  EXPECT_FALSE(Exists("truth"));
}

TEST_F(MemoryDirectory, BeforeItsFirstPublishHasNoManifest) {
  const auto writer = OpenWriter();
  EXPECT_EQ(writer->manifest().error().code, ErrorCode::kNotFound);
  EXPECT_EQ(writer->UpdateManifest(MakeManifest()).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(writer->RebuildDerived().error().code, ErrorCode::kNotFound);
  EXPECT_EQ(Memory::Open(path_, {}).error().code, ErrorCode::kNotFound);
}

TEST_F(PublishedMemory, TemporariesOfAKilledWriterAreSwept) {
  fs::create_directories(path_ / "derived" / "gen-002.tmp");
  WriteBytes(path_ / "derived" / "gen-002.tmp" / "gate.bin", "half");
  WriteBytes(path_ / "MANIFEST.json.tmp", "{");
  WriteBytes(path_ / "notes.tmp", "the user's");
  const auto writer = OpenWriter();
  EXPECT_FALSE(Exists("derived/gen-002.tmp"));
  EXPECT_FALSE(Exists("MANIFEST.json.tmp"));
  EXPECT_TRUE(Exists("notes.tmp"));
  EXPECT_EQ(PublishedDigest(), DigestOf(1));
}

TEST_F(PublishedMemory, TruthThatWentAwayDoesNotComeBackEmpty) {
  fs::remove_all(path_ / "truth");
  const auto writer = MemoryWriter::Open(path_, {.create = true});
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(writer.error().message, HasSubstr((path_ / "truth").string() + ": missing"));
  EXPECT_EQ(PublishedDigest(), DigestOf(1)) << "routing does not need truth";
}

// A disk that fails at the n-th operation of each kind, for every n that a publish reaches.
class FailingPublish : public PublishedMemory, public ::testing::WithParamInterface<FaultyFileSystem::Operation> {};

TEST_P(FailingPublish, LeavesAWholeGenerationPublishedAndTheNextOneSucceeds) {
  FaultyFileSystem files;
  int variant = 1;
  int failures = 0;
  for (int nth = 1;; ++nth) {
    auto writer = OpenWriter({.files = &files});
    ASSERT_NE(writer, nullptr);
    files.FailFrom(GetParam(), nth);
    const Status status = writer->Publish(*MakeSmallTables(variant + 1), MakeManifest());
    files.Heal();
    if (status.ok()) break;
    ++failures;
    EXPECT_THAT(status.error().message, HasSubstr(path_.string()));
    const std::string now = PublishedDigest();
    if (now == DigestOf(variant + 1)) ++variant;  // renamed, then the sync failed
    EXPECT_EQ(now, DigestOf(variant)) << "after failure " << nth;
    EXPECT_EQ(writer->store().GetDocument(7).value().source, MakeDocument(7).source);
  }
  EXPECT_TRUE(failures > 0 || GetParam() == FaultyFileSystem::Operation::kRemove) << "no fault was injected";
  EXPECT_EQ(PublishedDigest(), DigestOf(variant + 1));
  EXPECT_TRUE(Verify(path_).value().empty());
}

INSTANTIATE_TEST_SUITE_P(EveryOperation, FailingPublish,
                         ::testing::Values(FaultyFileSystem::Operation::kCreate, FaultyFileSystem::Operation::kWrite,
                                           FaultyFileSystem::Operation::kSync, FaultyFileSystem::Operation::kRename,
                                           FaultyFileSystem::Operation::kSyncDirectory,
                                           FaultyFileSystem::Operation::kRemove));

TEST_F(PublishedMemory, AFullDiskUnderDerivedIsNoSpaceAndFreesWhatItWrote) {
  FaultyFileSystem files;
  const auto writer = OpenWriter({.files = &files});
  for (uint64_t bytes : {0, 1, 100, 500, 1'500}) {
    files.LimitBytes(bytes);
    const Status status = writer->Publish(*MakeSmallTables(2, /*rows=*/50), MakeManifest());
    ASSERT_FALSE(status.ok()) << bytes;
    EXPECT_EQ(status.error().code, ErrorCode::kNoSpace) << status.error().message;
    EXPECT_FALSE(Exists("derived/gen-002"));
    EXPECT_FALSE(Exists("derived/gen-002.tmp"));
    EXPECT_EQ(PublishedDigest(), DigestOf(1));
  }
  files.Heal();
  EXPECT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
  EXPECT_EQ(PublishedDigest(), DigestOf(2));
}

TEST_F(PublishedMemory, AFullDiskUnderTruthIsNoSpaceAndLosesNothing) {
  for (int64_t bytes : {4'000, 6'000, 8'000}) {
    const auto env = MakeFullDiskEnv(bytes);
    auto writer = MemoryWriter::Open(path_, {.store_env = env.get()});
    const Status status = writer.ok() ? writer.value()->Publish(*MakeSmallTables(2, /*rows=*/400), MakeManifest())
                                      : Status(writer.error());
    ASSERT_FALSE(status.ok()) << bytes;
    EXPECT_EQ(status.error().code, ErrorCode::kNoSpace) << status.error().message;
    EXPECT_EQ(PublishedDigest(), DigestOf(1));
  }
  const auto writer = OpenWriter();
  EXPECT_EQ(writer->store().GetDocument(7).value().source, MakeDocument(7).source);
  EXPECT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
  EXPECT_EQ(PublishedDigest(), DigestOf(2));
}

}  // namespace
}  // namespace pointsman
