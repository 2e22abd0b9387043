#include "memory/undisturbed_read.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "memory/rocksdb_store.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

using std::chrono::milliseconds;

const Error kDamaged{ErrorCode::kCorrupt, "damaged"};

class FolderOfOneFile : public ::testing::Test {
 protected:
  void SetUp() override { Make("000001.sst"); }
  void Make(const std::string& name) const { std::ofstream(directory_.path() / name) << name; }
  void Remove(const std::string& name) const { std::filesystem::remove(directory_.path() / name); }
  // `open` is told which run it is, from 1; returns how many it took.
  int RunsUntil(bool ok, const std::function<Status(int)>& open) const {
    int runs = 0;
    const Status status = OpenUndisturbed(directory_.path(), [&] { return open(++runs); });
    EXPECT_EQ(status.ok(), ok);
    return runs;
  }
  TemporaryDirectory directory_;
};

TEST_F(FolderOfOneFile, IsOpenedOnceWhereNothingChanges) {
  EXPECT_EQ(RunsUntil(true, [](int) { return Status(); }), 1);
}

TEST_F(FolderOfOneFile, NewFilesDoNotMatter) {
  EXPECT_EQ(RunsUntil(true,
                      [&](int) {
                        Make("000002.sst");
                        return Status();
                      }),
            1);
}

TEST_F(FolderOfOneFile, AFileThatWentMakesItOpenAgain) {
  EXPECT_EQ(RunsUntil(true,
                      [&](int run) {
                        if (run == 1) Remove("000001.sst");
                        return Status();
                      }),
            2);
}

TEST_F(FolderOfOneFile, AnErrorOfFilesThatStayIsBelievedTheSecondTime) {
  EXPECT_EQ(RunsUntil(false, [](int) { return Status(kDamaged); }), 2);
  EXPECT_EQ(RunsUntil(true, [](int run) { return run == 1 ? Status(kDamaged) : Status(); }), 2);
}

TEST_F(FolderOfOneFile, AnErrorWhileFilesGoIsNotBelieved) {
  Make("000002.sst");
  EXPECT_EQ(RunsUntil(false,
                      [&](int run) {
                        if (run <= 2) Remove(run == 1 ? "000001.sst" : "000002.sst");
                        return Status(kDamaged);
                      }),
            4);
}

TEST_F(FolderOfOneFile, FilesThatGoAllTheTimeAreABusyMemory) {
  int runs = 0;
  const Status status = OpenUndisturbed(
      directory_.path(),
      [&] {
        Remove(std::to_string(runs));
        Make(std::to_string(++runs));
        return Status(kDamaged);
      },
      milliseconds(20));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kBusy);
  EXPECT_THAT(status.error().message, ::testing::HasSubstr(directory_.path().string()));
}

// Readers beside a writer that flushes, compacts and starts anew as fast as it can: each sees truth as it was at one
// moment, and none is told of damage.
constexpr auto kLong = milliseconds(1500);
constexpr size_t kFewest = 10;  // reads, however slow the machine is

class ReadBesideWriter : public ::testing::Test {
 protected:
  // Documents come and go; every few changes all files of the store are replaced.
  void Write(const std::atomic<bool>& stop) {
    uint64_t hash = 0;
    while (!stop) {
      auto store = RocksDbStore::Open(path_, /*create=*/true);
      ASSERT_TRUE(IsOk(store));
      for (int round = 0; round < 3 && !stop; ++round) {
        for (int i = 0; i < 4; ++i) ASSERT_TRUE(IsOk(store.value()->PutDocument(MakeDocument(++hash))));
        ASSERT_TRUE(IsOk(store.value()->PutEntries(std::vector{MakeEntry(0, hash, 0)})));
        ASSERT_TRUE(IsOk(store.value()->DeleteDocument(hash - 1)));
        acknowledged_ = store.value()->LastSequence();
        ASSERT_TRUE(IsOk(store.value()->Compact()));
      }
    }
  }

  // One view: all changes without a gap, and the documents that they leave.
  void Read() {
    const uint64_t at_least = acknowledged_;
    const auto store = RocksDbStore::OpenReadOnly(path_);
    ASSERT_TRUE(IsOk(store));
    std::this_thread::sleep_for(milliseconds(5));  // files of the view may be replaced before it is read
    std::set<uint64_t> expected, found;
    uint64_t last = 0;
    ASSERT_TRUE(IsOk(store.value()->ForEachChange(0, [&](const Change& change) -> Status {
      EXPECT_EQ(change.sequence, ++last);
      if (change.kind == ChangeKind::kPutDocument) expected.insert(change.document);
      if (change.kind == ChangeKind::kDeleteDocument) expected.erase(change.document);
      return {};
    })));
    ASSERT_TRUE(IsOk(store.value()->ForEachDocument([&](const Document& document) -> Status {
      found.insert(document.hash);
      return {};
    })));
    EXPECT_EQ(found, expected);
    EXPECT_EQ(last, store.value()->LastSequence());
    EXPECT_GE(last, at_least);
  }

  TemporaryDirectory directory_;
  std::filesystem::path path_ = directory_.path() / "truth";
  std::atomic<uint64_t> acknowledged_ = 0;
};

TEST_F(ReadBesideWriter, EveryViewIsWholeAndNoneIsAnError) {
  ASSERT_TRUE(IsOk(RocksDbStore::Open(path_, /*create=*/true)));
  std::atomic<bool> stop = false;
  std::thread writer([&] { Write(stop); });
  const auto end = std::chrono::steady_clock::now() + kLong;
  size_t reads = 0;
  while ((std::chrono::steady_clock::now() < end || reads < kFewest) && !HasFailure()) {
    Read();
    ++reads;
  }
  stop = true;
  writer.join();
  EXPECT_GT(acknowledged_, 6u) << "the writer did nothing";
}

}  // namespace
}  // namespace pointsman
