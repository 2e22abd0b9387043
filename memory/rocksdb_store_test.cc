#include "memory/rocksdb_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "memory/full_disk_env.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EmptyStore : public ::testing::Test {
 protected:
  void SetUp() override { Reopen(); }

  void Reopen() {
    store_.reset();
    auto store = RocksDbStore::Open(path_, /*create=*/true);
    ASSERT_TRUE(IsOk(store));
    store_ = std::move(store).value();
  }
  std::vector<uint64_t> Documents() {
    std::vector<uint64_t> hashes;
    EXPECT_TRUE(IsOk(store_->ForEachDocument([&](const Document& document) -> Status {
      hashes.push_back(document.hash);
      return {};
    })));
    return hashes;
  }
  std::vector<EntryId> Entries(int32_t layer) {
    std::vector<EntryId> ids;
    EXPECT_TRUE(IsOk(store_->ForEachEntry(layer, [&](const StoredEntry& entry) -> Status {
      EXPECT_EQ(entry.layer, layer);
      EXPECT_EQ(entry.code, MakeEntry(layer, entry.id.document, entry.id.position).code);
      ids.push_back(entry.id);
      return {};
    })));
    return ids;
  }
  std::vector<ChangeKind> ChangesAfter(uint64_t after) {
    std::vector<ChangeKind> kinds;
    EXPECT_TRUE(IsOk(store_->ForEachChange(after, [&](const Change& change) -> Status {
      EXPECT_EQ(change.sequence, after + kinds.size() + 1);
      kinds.push_back(change.kind);
      return {};
    })));
    return kinds;
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_.path() / "truth";
  std::unique_ptr<EntryStore> store_;
};

class StoreWithTwoDocuments : public EmptyStore {
 protected:
  void SetUp() override {
    EmptyStore::SetUp();
    ASSERT_TRUE(IsOk(store_->PutDocument(MakeDocument(UINT64_MAX))));
    ASSERT_TRUE(IsOk(store_->PutDocument(MakeDocument(7))));
    const std::vector<StoredEntry> entries = {MakeEntry(0, UINT64_MAX, 1), MakeEntry(0, 7, 300), MakeEntry(0, 7, 2),
                                              MakeEntry(3, 7, 0), MakeEntry(3, UINT64_MAX, UINT32_MAX)};
    ASSERT_TRUE(IsOk(store_->PutEntries(entries)));
  }
};

TEST_F(EmptyStore, HoldsNothing) {
  EXPECT_EQ(store_->LastSequence(), 0u);
  EXPECT_TRUE(Documents().empty());
  EXPECT_TRUE(Entries(0).empty());
  EXPECT_EQ(store_->GetDocument(1).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store_->GetSetting("transform").error().code, ErrorCode::kNotFound);
}

TEST_F(StoreWithTwoDocuments, IteratesInEntryIdOrder) {
  EXPECT_THAT(Documents(), ElementsAre(7, UINT64_MAX));
  EXPECT_THAT(Entries(0), ElementsAre(EntryId{7, 2}, EntryId{7, 300}, EntryId{UINT64_MAX, 1}));
  EXPECT_THAT(Entries(3), ElementsAre(EntryId{7, 0}, EntryId{UINT64_MAX, UINT32_MAX}));
  EXPECT_TRUE(Entries(1).empty());
  EXPECT_EQ(store_->GetDocument(7).value().tokens, MakeDocument(7).tokens);
}

TEST_F(StoreWithTwoDocuments, KeepsEverythingOverAReopen) {
  Reopen();
  EXPECT_THAT(Documents(), ElementsAre(7, UINT64_MAX));
  EXPECT_EQ(Entries(0).size(), 3u);
  EXPECT_EQ(store_->LastSequence(), 4u);
  EXPECT_THAT(ChangesAfter(1), ElementsAre(ChangeKind::kPutDocument, ChangeKind::kPutEntries, ChangeKind::kPutEntries));
}

TEST_F(StoreWithTwoDocuments, CompactKeepsWhatIsThereAndLeavesNoLogBehind) {
  ASSERT_TRUE(IsOk(store_->DeleteDocument(7)));
  ASSERT_TRUE(IsOk(store_->Compact()));
  EXPECT_THAT(Documents(), ElementsAre(UINT64_MAX));
  EXPECT_THAT(Entries(3), ElementsAre(EntryId{UINT64_MAX, UINT32_MAX}));
  EXPECT_EQ(store_->LastSequence(), 5u);
  for (const auto& file : std::filesystem::directory_iterator(path_)) {
    if (file.path().extension() != ".log") continue;
    EXPECT_EQ(file.file_size(), 0u) << file.path();
  }
  ASSERT_TRUE(IsOk(store_->PutSetting("after", "x")));
  Reopen();
  EXPECT_EQ(store_->LastSequence(), 6u);
  ASSERT_TRUE(IsOk(store_->Compact())) << "an empty log";
  store_.reset();
  const auto reader = RocksDbStore::OpenReadOnly(path_);
  ASSERT_TRUE(IsOk(reader));
  EXPECT_EQ(reader.value()->Compact().error().code, ErrorCode::kInvalidArgument);
}

TEST_F(StoreWithTwoDocuments, DeletingADocumentTakesItsEntriesOfAllLayersAndNoOthers) {
  ASSERT_TRUE(IsOk(store_->DeleteDocument(7)));
  EXPECT_THAT(Documents(), ElementsAre(UINT64_MAX));
  EXPECT_THAT(Entries(0), ElementsAre(EntryId{UINT64_MAX, 1}));
  EXPECT_THAT(Entries(3), ElementsAre(EntryId{UINT64_MAX, UINT32_MAX}));
  ASSERT_TRUE(IsOk(store_->DeleteDocument(UINT64_MAX)));
  EXPECT_TRUE(Entries(3).empty());
  EXPECT_THAT(ChangesAfter(4), ElementsAre(ChangeKind::kDeleteDocument, ChangeKind::kDeleteDocument));
  Reopen();
  EXPECT_TRUE(Entries(0).empty());

  ASSERT_TRUE(IsOk(store_->PutDocument(MakeDocument(7))));
  EXPECT_TRUE(Entries(0).empty()) << "entries of a deleted document came back with it";
}

TEST_F(StoreWithTwoDocuments, DeletingAnAbsentDocumentIsRefusedAndRecordsNothing) {
  const Status status = store_->DeleteDocument(8);
  EXPECT_EQ(status.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(status.error().message, HasSubstr("0000000000000008"));
  EXPECT_EQ(store_->LastSequence(), 4u);
}

TEST_F(StoreWithTwoDocuments, EntriesOfAnAbsentDocumentAreRefusedWithTheWholeBatch) {
  const std::vector<StoredEntry> entries = {MakeEntry(0, 7, 9), MakeEntry(0, 99, 0)};
  const Status status = store_->PutEntries(entries);
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(status.error().message, HasSubstr("put the document first"));
  EXPECT_EQ(Entries(0).size(), 3u);
  EXPECT_EQ(store_->LastSequence(), 4u);
}

TEST_F(StoreWithTwoDocuments, BadArgumentsAreRefused) {
  EXPECT_EQ(store_->PutEntries(std::vector{MakeEntry(-1, 7, 9)}).error().code, ErrorCode::kInvalidArgument);
  Document document = MakeDocument(1);
  document.loss_mask.pop_back();
  EXPECT_EQ(store_->PutDocument(document).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->PutSetting("", "x").error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(IsOk(store_->PutEntries({})));
  EXPECT_EQ(store_->LastSequence(), 4u);
}

TEST_F(StoreWithTwoDocuments, TheVisitorsErrorEndsTheIteration) {
  int visits = 0;
  const Status status = store_->ForEachEntry(0, [&](const StoredEntry&) -> Status {
    ++visits;
    return Error{ErrorCode::kInternal, "enough"};
  });
  EXPECT_EQ(MessageOf(status), "enough");
  EXPECT_EQ(visits, 1);
}

TEST_F(StoreWithTwoDocuments, IterationSeesASnapshot) {
  std::vector<uint64_t> seen;
  ASSERT_TRUE(IsOk(store_->ForEachDocument([&](const Document& document) -> Status {
    seen.push_back(document.hash);
    return store_->PutDocument(MakeDocument(document.hash - 1));
  })));
  EXPECT_THAT(seen, ElementsAre(7, UINT64_MAX));
  EXPECT_THAT(Documents(), ElementsAre(6, 7, UINT64_MAX - 1, UINT64_MAX));
}

TEST_F(EmptyStore, SettingsAreReplacedListedAndDeleted) {
  const std::string blob(300'000, '\0');
  ASSERT_TRUE(IsOk(store_->PutSetting("transform", "old")));
  ASSERT_TRUE(IsOk(store_->PutSetting("transform", blob)));
  ASSERT_TRUE(IsOk(store_->PutSetting("progress/1", "")));
  ASSERT_TRUE(IsOk(store_->PutSetting("progress/2", "x")));
  Reopen();
  EXPECT_EQ(store_->GetSetting("transform").value(), blob);
  EXPECT_EQ(store_->GetSetting("progress/1").value(), "");
  EXPECT_THAT(store_->ListSettings("progress/").value(), ElementsAre("progress/1", "progress/2"));
  ASSERT_TRUE(IsOk(store_->DeleteSetting("progress/1")));
  ASSERT_TRUE(IsOk(store_->DeleteSetting("progress/1")));
  EXPECT_THAT(store_->ListSettings("").value(), ElementsAre("progress/2", "transform"));
  EXPECT_EQ(store_->LastSequence(), 5u);
}

TEST_F(EmptyStore, WritersInSeveralThreadsGetOneGaplessSequence) {
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 50; ++i) ASSERT_TRUE(IsOk(store_->PutDocument(MakeDocument(thread * 1000 + i))));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_->LastSequence(), 200u);
  EXPECT_EQ(ChangesAfter(0).size(), 200u);
  EXPECT_EQ(Documents().size(), 200u);
}

TEST_F(EmptyStore, ManyOpensLeaveNoLogFiles) {
  for (int i = 0; i < 5; ++i) Reopen();
  for (const auto& file : std::filesystem::directory_iterator(path_)) {
    EXPECT_FALSE(file.path().filename().string().starts_with("LOG")) << file.path();
  }
}

TEST_F(EmptyStore, ASecondOpenIsBusy) {
  const auto second = RocksDbStore::Open(path_, /*create=*/false);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kBusy) << second.error().message;
  EXPECT_THAT(second.error().message, HasSubstr(path_.string()));
}

TEST(StoreOpen, AnAbsentStoreIsNotFoundUnlessCreated) {
  TemporaryDirectory directory;
  const auto absent = RocksDbStore::Open(directory.path() / "truth", /*create=*/false);
  EXPECT_EQ(absent.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "truth"));
}

// A store whose content lies in table files, as after a long build, and which is closed.
class ClosedStore : public StoreWithTwoDocuments {
 protected:
  void SetUp() override {
    StoreWithTwoDocuments::SetUp();
    // An old write-ahead log with data becomes a table file when the store is opened again.
    Reopen();
    store_.reset();
  }
  std::vector<std::filesystem::path> FilesLike(const std::string& text) {
    std::vector<std::filesystem::path> files;
    for (const auto& file : std::filesystem::directory_iterator(path_)) {
      if (file.path().filename().string().find(text) != std::string::npos) files.push_back(file.path());
    }
    EXPECT_FALSE(files.empty()) << text;
    return files;
  }
  void ExpectDamageNoticed(const std::filesystem::path& damaged) {
    const auto checked = RocksDbStore::Check(path_);
    ASSERT_FALSE(checked.ok()) << damaged << " was damaged unnoticed";
    EXPECT_EQ(checked.error().code, ErrorCode::kCorrupt) << checked.error().message;
    EXPECT_THAT(checked.error().message, HasSubstr(path_.string()));
    EXPECT_EQ(checked.error().message.find('\n'), std::string::npos);
  }
};

TEST_F(ClosedStore, IsSound) { EXPECT_EQ(RocksDbStore::Check(path_).value(), 4u); }

TEST_F(ClosedStore, FlippedBitsInTableFilesAreFound) {
  for (const std::filesystem::path& file : FilesLike(".sst")) {
    const std::string original = ReadBytes(file);
    // The first bytes are always a data block's.
    FlipBitInFile(file, 5);
    ExpectDamageNoticed(file);
    EXPECT_THAT(MessageOf(RocksDbStore::Check(path_)), HasSubstr(file.filename().string()));
    WriteBytes(file, original.substr(0, original.size() / 2));
    ExpectDamageNoticed(file);
    std::filesystem::remove(file);
    ExpectDamageNoticed(file);
    WriteBytes(file, original);
  }
  EXPECT_TRUE(IsOk(RocksDbStore::Check(path_)));
}

TEST_F(ClosedStore, DamageToCurrentAndManifestIsFoundAtEveryByte) {
  for (const char* name : {"CURRENT", "MANIFEST"}) {
    const std::filesystem::path file = FilesLike(name).front();
    const std::string original = ReadBytes(file);
    const size_t step = original.size() / 40 + 1;
    for (size_t offset = 0; offset < original.size(); offset += step) {
      FlipBitInFile(file, offset);
      ExpectDamageNoticed(file);
      WriteBytes(file, original);
    }
    for (size_t size = 0; size + 1 < original.size(); size += step) {
      WriteBytes(file, original.substr(0, size));
      const auto checked = RocksDbStore::Check(path_);
      // Cut at a record, RocksDB's manifest is an older, valid one: only MANIFEST.json's truth_sequence can tell.
      EXPECT_LE(checked.ok() ? checked.value() : 0, 4u) << name << " cut to " << size;
    }
    WriteBytes(file, original);
  }
}

TEST_F(ClosedStore, ALostCurrentFileIsNotTakenForAnEmptyStore) {
  std::filesystem::remove(path_ / "CURRENT");
  const auto opened = RocksDbStore::Open(path_, /*create=*/true);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(opened.error().message, HasSubstr("CURRENT"));
  EXPECT_FALSE(FilesLike(".sst").empty());
}

TEST_F(ClosedStore, AFullDiskKeepsWhatWasWritten) {
  for (int64_t bytes : {0, 100, 2'000, 10'000, 40'000}) {
    uint64_t acknowledged = 4;
    {
      const auto env = MakeFullDiskEnv(bytes);
      auto store = RocksDbStore::Open(path_, /*create=*/false, env.get());
      Status status;
      if (store.ok()) {
        acknowledged = store.value()->LastSequence();
        for (int i = 0; i < 1000 && status.ok(); ++i) {
          status = store.value()->PutSetting("progress", std::string(200, 'x'));
          if (status.ok()) ++acknowledged;
        }
      }
      const Error error = store.ok() ? status.error() : store.error();
      EXPECT_EQ(error.code, ErrorCode::kNoSpace) << error.message;
      EXPECT_THAT(error.message, HasSubstr("free space"));
      EXPECT_THAT(error.message, HasSubstr(path_.string()));
    }
    Reopen();
    EXPECT_GE(store_->LastSequence(), acknowledged);
    EXPECT_EQ(ChangesAfter(0).size(), store_->LastSequence());
    EXPECT_EQ(Entries(0).size(), 3u);
    store_.reset();
  }
}

}  // namespace
}  // namespace pointsman
