#include "memory/snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "memory/hash.h"
#include "memory/memory.h"
#include "memory/snapshot_files.h"
#include "memory/test_snapshots.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST_F(SnapshotTest, IsTheMemoryAndSharesNoBytesWithIt) {
  const auto taken = CreateSnapshot(memory_, snapshots_ / "monday");
  ASSERT_TRUE(IsOk(taken));
  EXPECT_EQ(taken.value().name, "monday");
  EXPECT_EQ(taken.value().generation, 1u);
  EXPECT_EQ(taken.value().digest, DigestOf(1));
  EXPECT_GE(taken.value().truth_sequence, 3u);
  EXPECT_EQ(PublishedDigest(snapshots_ / "monday"), DigestOf(1));
  EXPECT_EQ(DocumentsOf(snapshots_ / "monday"), std::vector<uint64_t>{7});
  uint64_t bytes = 0;
  for (const SnapshotFile& file : taken.value().files) {
    const std::string content = ReadBytes(snapshots_ / "monday" / file.path);
    EXPECT_EQ(file.sha256, Sha256Hex(content)) << file.path;
    bytes += content.size();
    struct stat info;
    ASSERT_EQ(stat((snapshots_ / "monday" / file.path).c_str(), &info), 0);
    EXPECT_EQ(info.st_nlink, 1u) << file.path;
  }
  EXPECT_EQ(taken.value().bytes(), bytes);
  EXPECT_EQ(NamesIn(snapshots_), std::vector<std::string>{"monday"}) << "something unfinished is left";
  EXPECT_EQ(NamesIn(snapshots_ / "monday"),
            (std::vector<std::string>{"MANIFEST.json", "SNAPSHOT.json", "derived", "truth"}));
  const auto verified = VerifySnapshot(snapshots_ / "monday");
  ASSERT_TRUE(IsOk(verified));
  EXPECT_EQ(verified.value().sha256, taken.value().sha256);
}

TEST_F(SnapshotTest, OfAWriterOfThisProcessHoldsWhatWasWrittenBeforeTheCall) {
  const auto writer = OpenWriter();
  ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(8))));
  ASSERT_TRUE(IsOk(CreateSnapshot(memory_, snapshots_ / "own", {.store = &writer->store()})));
  ASSERT_TRUE(IsOk(CreateSnapshot(memory_, snapshots_ / "beside")));  // as another process would see the writer
  ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(9))));
  for (const char* name : {"own", "beside"}) {
    EXPECT_EQ(DocumentsOf(snapshots_ / name), (std::vector<uint64_t>{7, 8})) << name;
    EXPECT_TRUE(IsOk(VerifySnapshot(snapshots_ / name)));
    EXPECT_TRUE(IsOk(RestoreSnapshot(snapshots_ / name, directory_.path() / name)));
    EXPECT_TRUE(Verify(directory_.path() / name).value().empty());
  }
  EXPECT_EQ(DocumentsOf(memory_), (std::vector<uint64_t>{7, 8, 9}));
}

TEST_F(SnapshotTest, TakenWhileThreadsWriteIsAPrefixOfWhatTheyWrote) {
  const auto writer = OpenWriter();
  std::atomic<bool> stop = false;
  std::thread writing([&] {
    for (uint64_t number = 100; !stop; ++number) {
      EXPECT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(number))));
      EXPECT_TRUE(IsOk(writer->store().PutEntries(std::vector{MakeEntry(0, number, 0)})));
      usleep(100);  // the checks below read everything that was written
    }
  });
  for (int round = 0; round < 4; ++round) {
    const fs::path path = snapshots_ / std::to_string(round);
    const uint64_t before = writer->store().LastSequence();
    const auto taken = CreateSnapshot(memory_, path, {.store = round % 2 == 0 ? &writer->store() : nullptr});
    ASSERT_TRUE(IsOk(taken)) << round;
    EXPECT_GE(taken.value().truth_sequence, before) << "a write that had returned is missing";
    EXPECT_TRUE(IsOk(RocksDbStore::Check(path / "truth"))) << "gaps, or entries without a document";
  }
  stop = true;
  writing.join();
}

TEST_F(SnapshotTest, NamesAreStrict) {
  for (const std::string name : {"", ".", "..", ".hidden", "-x", "Upper", "a b", "a/b", "x.tmp", "ümlaut", "a\nb"}) {
    EXPECT_FALSE(IsSnapshotName(name)) << name;
  }
  EXPECT_FALSE(IsSnapshotName(std::string(65, 'a')));
  EXPECT_FALSE(IsSnapshotName(std::string("a\0b", 3)));
  for (const std::string name : {"a", "2026-01-31", "before_update.2"}) EXPECT_TRUE(IsSnapshotName(name)) << name;
  const auto refused = CreateSnapshot(memory_, snapshots_ / "Upper");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(fs::exists(snapshots_));
}

TEST_F(SnapshotTest, WhatIsThereIsNotReplacedAndWhatIsNoMemoryIsNotTaken) {
  const fs::path path = Take("one");
  const std::string record = ReadBytes(path / "SNAPSHOT.json");
  EXPECT_EQ(CreateSnapshot(memory_, path).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ReadBytes(path / "SNAPSHOT.json"), record);
  EXPECT_EQ(CreateSnapshot(directory_.path() / "nowhere", snapshots_ / "two").error().code, ErrorCode::kNotFound);
  FlipBitInFile(memory_ / "derived/gen-001/gate.bin", 100);
  const auto damaged = CreateSnapshot(memory_, snapshots_ / "two");
  ASSERT_FALSE(damaged.ok());
  EXPECT_EQ(damaged.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(damaged.error().message, HasSubstr("gate.bin"));
  EXPECT_EQ(NamesIn(snapshots_), std::vector<std::string>{"one"});
}

TEST_F(SnapshotTest, UnfinishedOnesAreNotListedAndMakeWay) {
  fs::create_directories(snapshots_ / "one.tmp" / "truth");
  WriteBytes(snapshots_ / "one.tmp" / "truth" / "000001.log", "half");
  EXPECT_TRUE(ListSnapshots(snapshots_).value().snapshots.empty());
  Take("one");
  EXPECT_FALSE(fs::exists(snapshots_ / "one.tmp"));
  EXPECT_FALSE(fs::exists(snapshots_ / "one" / "truth" / "000001.log"));
}

TEST_F(SnapshotTest, AreListedAndRemoved) {
  EXPECT_TRUE(ListSnapshots(snapshots_).value().snapshots.empty());
  Take("b");
  Take("a");
  Take("broken");
  fs::create_directories(snapshots_ / "no-snapshot");
  FlipBitInFile(snapshots_ / "broken" / "SNAPSHOT.json", 60);
  const auto listing = ListSnapshots(snapshots_);
  ASSERT_TRUE(IsOk(listing));
  EXPECT_EQ(listing.value().snapshots.size(), 2u);
  ASSERT_EQ(listing.value().damaged.size(), 1u);
  EXPECT_THAT(listing.value().damaged[0].message, HasSubstr("broken"));
  EXPECT_TRUE(IsOk(RemoveSnapshot(snapshots_ / "a")));
  EXPECT_TRUE(IsOk(RemoveSnapshot(snapshots_ / "broken/")));
  EXPECT_EQ(RemoveSnapshot(snapshots_ / "a").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(RemoveSnapshot(snapshots_ / "no-snapshot").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(RemoveSnapshot(memory_).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(NamesIn(snapshots_), (std::vector<std::string>{"b", "no-snapshot"}));
}

TEST_F(SnapshotTest, ThatStillHoldADeletedDocumentAreNamed) {
  Take("before");
  {
    const auto writer = OpenWriter();
    ASSERT_TRUE(IsOk(writer->store().PutDocument(MakeDocument(8))));
    ASSERT_TRUE(IsOk(writer->store().DeleteDocument(7)));
  }
  Take("after");
  Take("unreadable");
  fs::remove(snapshots_ / "unreadable/truth/CURRENT");
  const auto holding = SnapshotsHolding(snapshots_, 7);
  ASSERT_TRUE(IsOk(holding));
  ASSERT_EQ(holding.value().size(), 2u);
  EXPECT_EQ(holding.value()[0].name, "before");
  EXPECT_EQ(holding.value()[0].problem, "");
  EXPECT_EQ(holding.value()[1].name, "unreadable");
  EXPECT_THAT(holding.value()[1].problem, HasSubstr("CURRENT"));
  EXPECT_TRUE(IsOk(VerifySnapshot(snapshots_ / "before"))) << "looking changed a file";
}

TEST_F(SnapshotTest, AnyDamageIsFoundAndRestoresNothing) {
  const fs::path path = Take("one");
  {
    const auto writer = OpenWriter();
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
  }
  const auto refused = [&](const std::string& part) {
    const auto restored = RestoreSnapshot(path, memory_);
    ASSERT_FALSE(restored.ok()) << part;
    EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(restored.error().message, HasSubstr(part));
    EXPECT_EQ(PublishedDigest(memory_), DigestOf(2));
    EXPECT_FALSE(fs::exists(memory_.string() + ".restoring.tmp"));
  };
  const SnapshotInfo info = ReadSnapshot(path).value();
  for (const SnapshotFile& file : info.files) {
    const fs::path victim = path / file.path;
    const std::string bytes = ReadBytes(victim);
    if (!bytes.empty()) {
      FlipBitInFile(victim, bytes.size() / 2);
      refused(file.path);
      WriteBytes(victim, bytes.substr(0, bytes.size() / 2));
      refused(file.path);
    }
    WriteBytes(victim, bytes + "x");
    refused(file.path);
    fs::remove(victim);
    refused(file.path);
    WriteBytes(victim, bytes);
  }
  const std::string record = ReadBytes(path / "SNAPSHOT.json");
  for (size_t at = 0; at + 1 < record.size(); at += 7) {  // the newline at the end says nothing
    FlipBitInFile(path / "SNAPSHOT.json", at);
    const auto read = ReadSnapshot(path);
    EXPECT_FALSE(read.ok()) << "byte " << at;
    WriteBytes(path / "SNAPSHOT.json", record);
  }
  EXPECT_TRUE(IsOk(RestoreSnapshot(path, memory_)));
  EXPECT_EQ(PublishedDigest(memory_), DigestOf(1));
}

TEST_F(SnapshotTest, FromAStrangerLeadsNowhere) {
  const fs::path path = Take("one");
  WriteBytes(directory_.path() / "secret", "secret");
  const SnapshotInfo sound = ReadSnapshot(path).value();
  for (const std::string hostile :
       {"../../secret", "/etc/passwd", "truth/../../secret", "truth/x/y", "derived/gen-001/../../SNAPSHOT.json",
        "derived/x/gate.bin", "LOCK", "SNAPSHOT.json", "truth/..", "truth/.", "truth/", "derived/gen-001"}) {
    SnapshotInfo info = sound;
    info.files[0].path = hostile;
    WriteBytes(path / "SNAPSHOT.json", SerializeSnapshotRecord(info));
    const auto restored = RestoreSnapshot(path, directory_.path() / "out");
    ASSERT_FALSE(restored.ok()) << hostile;
    EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt) << restored.error().message;
    EXPECT_FALSE(fs::exists(directory_.path() / "out"));
  }
  // Links and pipes in place of a file, the link to the very bytes.
  SnapshotInfo info = sound;
  WriteBytes(path / "SNAPSHOT.json", SerializeSnapshotRecord(info));
  const fs::path victim = path / "MANIFEST.json";
  fs::rename(victim, directory_.path() / "elsewhere");
  fs::create_symlink(directory_.path() / "elsewhere", victim);
  EXPECT_THAT(MessageOf(VerifySnapshot(path)), HasSubstr("plain file"));
  fs::remove(victim);
  ASSERT_EQ(mkfifo(victim.c_str(), 0600), 0);
  EXPECT_THAT(MessageOf(VerifySnapshot(path)), HasSubstr("plain file"));
}

// A record whose hashes are right over bytes that are no sound memory.
TEST_F(SnapshotTest, WhoseBytesAreWholeButNoMemoryIsRefused) {
  const fs::path path = Take("one");
  SnapshotInfo info = ReadSnapshot(path).value();
  FlipBitInFile(path / "derived/gen-001/gate.bin", 100);
  for (SnapshotFile& file : info.files) {
    if (file.path.ends_with("gate.bin")) file.sha256 = Sha256Hex(ReadBytes(path / file.path));
  }
  WriteBytes(path / "SNAPSHOT.json", SerializeSnapshotRecord(info));
  const auto restored = RestoreSnapshot(path, memory_);
  ASSERT_FALSE(restored.ok());
  EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(PublishedDigest(memory_), DigestOf(1));
  EXPECT_TRUE(Verify(memory_).value().empty());
}

TEST_F(SnapshotTest, RestoresOverANewerMemoryWhichReadersKeep) {
  const fs::path path = Take("one");
  {
    const auto writer = OpenWriter();
    ASSERT_TRUE(IsOk(writer->store().DeleteDocument(7)));
    for (int variant : {2, 3}) ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(variant), MakeManifest())));
  }
  const auto reader = Memory::Open(memory_, {});
  ASSERT_TRUE(IsOk(reader));
  const auto manifest = RestoreSnapshot(path, memory_.string() + "/");
  ASSERT_TRUE(IsOk(manifest));
  EXPECT_EQ(manifest.value().generation, 1u);
  EXPECT_EQ(PublishedDigest(memory_), DigestOf(1));
  EXPECT_EQ(Digest(reader.value()->tables()), DigestOf(3)) << "an open reader lost its memory";
  EXPECT_EQ(DocumentsOf(memory_), std::vector<uint64_t>{7});
  EXPECT_TRUE(Verify(memory_).value().empty());
  EXPECT_TRUE(IsOk(VerifySnapshot(path))) << "restoring changed the snapshot";
  EXPECT_EQ(NamesIn(directory_.path()), (std::vector<std::string>{"mem", "snapshots"}));
  const auto writer = OpenWriter();
  ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(5), MakeManifest())));
  EXPECT_EQ(writer->manifest().value().generation, 4u) << "a number was used twice";
}

TEST_F(SnapshotTest, RestoresWhereALinkLeads) {
  const fs::path path = Take("one");
  {
    const auto writer = OpenWriter();
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
  }
  fs::create_directory_symlink(memory_, directory_.path() / "link");
  ASSERT_TRUE(IsOk(RestoreSnapshot(path, directory_.path() / "link")));
  EXPECT_TRUE(fs::is_symlink(directory_.path() / "link"));
  EXPECT_EQ(PublishedDigest(memory_), DigestOf(1));
  EXPECT_EQ(NamesIn(directory_.path()), (std::vector<std::string>{"link", "mem", "snapshots"}));
}

TEST_F(SnapshotTest, RestoreRefusesWhatItMustNotReplace) {
  const fs::path path = Take("one");
  {
    const auto writer = OpenWriter();
    const auto busy = RestoreSnapshot(path, memory_);
    ASSERT_FALSE(busy.ok());
    EXPECT_EQ(busy.error().code, ErrorCode::kBusy);
  }
  WriteBytes(memory_ / "thesis.txt", "the user's");
  const auto foreign = RestoreSnapshot(path, memory_);
  ASSERT_FALSE(foreign.ok());
  EXPECT_EQ(foreign.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(foreign.error().message, HasSubstr("thesis.txt"));
  EXPECT_EQ(ReadBytes(memory_ / "thesis.txt"), "the user's");
  fs::remove(memory_ / "thesis.txt");
  const auto unwanted = RestoreSnapshot(path, memory_, {.accept = [](const Manifest& manifest) -> Status {
                                          EXPECT_EQ(manifest.generation, 1u);
                                          return Error{ErrorCode::kMismatch, "another model"};
                                        }});
  ASSERT_FALSE(unwanted.ok());
  EXPECT_EQ(unwanted.error().code, ErrorCode::kMismatch);
  EXPECT_EQ(RestoreSnapshot(memory_, directory_.path() / "x").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(NamesIn(directory_.path()), (std::vector<std::string>{"mem", "snapshots"}));
  EXPECT_TRUE(Verify(memory_).value().empty());
}

}  // namespace
}  // namespace pointsman
