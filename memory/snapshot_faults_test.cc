// Snapshots where the disk fails, is full, or a process is killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "memory/fault_injection.h"
#include "memory/memory.h"
#include "memory/snapshot.h"
#include "memory/test_snapshots.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// A disk that fails at the n-th operation of each kind, for every n that the call reaches.
class FailingDisk : public SnapshotTest, public ::testing::WithParamInterface<FaultyFileSystem::Operation> {};

TEST_P(FailingDisk, LeavesAWholeSnapshotOrNone) {
  FaultyFileSystem files;
  int failures = 0;
  for (int nth = 1;; ++nth) {
    files.FailFrom(GetParam(), nth);
    const auto taken = CreateSnapshot(memory_, snapshots_ / "one", {.files = &files});
    files.Heal();
    if (taken.ok()) break;
    ++failures;
    ASSERT_LT(nth, 200);
    const SnapshotListing listing = ListSnapshots(snapshots_).value();
    for (const SnapshotInfo& info : listing.snapshots) {  // renamed, then the sync failed
      EXPECT_TRUE(IsOk(VerifySnapshot(snapshots_ / info.name)));
      EXPECT_TRUE(IsOk(RemoveSnapshot(snapshots_ / info.name)));
    }
  }
  EXPECT_TRUE(failures > 0 || GetParam() == FaultyFileSystem::Operation::kRemove) << "no fault was injected";
  EXPECT_TRUE(IsOk(VerifySnapshot(snapshots_ / "one")));
  EXPECT_TRUE(Verify(memory_).value().empty());
}

TEST_P(FailingDisk, LeavesTheOldMemoryOrTheRestoredOne) {
  const fs::path path = Take("one");
  FaultyFileSystem files;
  int failures = 0;
  for (int nth = 1;; ++nth) {
    {
      const auto writer = OpenWriter();
      ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
    }
    files.FailFrom(GetParam(), nth);
    const auto restored = RestoreSnapshot(path, memory_, {.files = &files});
    files.Heal();
    if (restored.ok()) break;
    ++failures;
    ASSERT_LT(nth, 200);
    EXPECT_THAT(PublishedDigest(memory_), ::testing::AnyOf(DigestOf(1), DigestOf(2))) << "after failure " << nth;
    EXPECT_TRUE(Verify(memory_).value().empty()) << "after failure " << nth;
  }
  EXPECT_TRUE(failures > 0 || GetParam() == FaultyFileSystem::Operation::kRemove) << "no fault was injected";
  EXPECT_EQ(PublishedDigest(memory_), DigestOf(1));
  EXPECT_TRUE(Verify(memory_).value().empty());
}

INSTANTIATE_TEST_SUITE_P(EveryOperation, FailingDisk,
                         ::testing::Values(FaultyFileSystem::Operation::kCreate, FaultyFileSystem::Operation::kWrite,
                                           FaultyFileSystem::Operation::kSync, FaultyFileSystem::Operation::kRename,
                                           FaultyFileSystem::Operation::kSyncDirectory,
                                           FaultyFileSystem::Operation::kRemove));

TEST_F(SnapshotTest, AFullDiskIsNoSpaceAndChangesNothing) {
  const fs::path path = Take("one");
  for (uint64_t bytes : {0, 1, 500, 3'000}) {
    FaultyFileSystem files;
    files.LimitBytes(bytes);
    EXPECT_EQ(CreateSnapshot(memory_, snapshots_ / "two", {.files = &files}).error().code, ErrorCode::kNoSpace);
    files.LimitBytes(bytes);
    EXPECT_EQ(RestoreSnapshot(path, memory_, {.files = &files}).error().code, ErrorCode::kNoSpace);
    EXPECT_EQ(NamesIn(snapshots_), std::vector<std::string>{"one"});
    EXPECT_EQ(NamesIn(directory_.path()), (std::vector<std::string>{"mem", "snapshots"}));
  }
  EXPECT_TRUE(Verify(memory_).value().empty());
}

constexpr const char* kRestoringChildVariable = "POINTSMAN_RESTORE_TEST_DIRECTORY";
constexpr const char* kWritingChildVariable = "POINTSMAN_CRASH_TEST_DIRECTORY";  // crash_test.cc

// Runs one disabled test of this binary with `variable` set.
pid_t StartChild(const char* variable, const fs::path& directory, const char* filter) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setenv(variable, directory.c_str(), 1);
  if (freopen("/dev/null", "w", stdout) == nullptr) _exit(126);
  execl("/proc/self/exe", "memory_test", "--gtest_also_run_disabled_tests", filter, static_cast<char*>(nullptr));
  _exit(127);
}

void Kill(pid_t child) {
  ASSERT_EQ(kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself with status " << WEXITSTATUS(status);
}

TEST(RestoringChild, DISABLED_RestoresUntilItIsKilled) {
  const char* directory = std::getenv(kRestoringChildVariable);
  ASSERT_NE(directory, nullptr) << "only SnapshotTest starts this";
  for (int round = 0;; ++round) {
    const char* name = round % 2 == 0 ? "one" : "two";
    ASSERT_TRUE(IsOk(RestoreSnapshot(fs::path(directory) / "snapshots" / name, fs::path(directory) / "mem")));
  }
}

TEST_F(SnapshotTest, AKilledRestoreLeavesTheOldMemoryOrTheNewOne) {
  Take("one");
  {
    const auto writer = OpenWriter();
    ASSERT_TRUE(IsOk(writer->Publish(*MakeSmallTables(2), MakeManifest())));
  }
  Take("two");
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::uniform_int_distribution<useconds_t> delay_us(30'000, 200'000);
  for (int round = 0; round < 15; ++round) {
    const pid_t child = StartChild(kRestoringChildVariable, directory_.path(),
                                   "--gtest_filter=RestoringChild.DISABLED_RestoresUntilItIsKilled");
    ASSERT_GT(child, 0);
    usleep(delay_us(random));
    Kill(child);
    ASSERT_THAT(PublishedDigest(memory_), ::testing::AnyOf(DigestOf(1), DigestOf(2))) << "round " << round;
    ASSERT_TRUE(Verify(memory_).value().empty()) << "round " << round;
  }
  EXPECT_TRUE(IsOk(RestoreSnapshot(snapshots_ / "one", memory_)));
  EXPECT_EQ(NamesIn(directory_.path()), (std::vector<std::string>{"mem", "snapshots"}));
}

TEST_F(SnapshotTest, OfAnotherProcessThatWritesAndPublishesIsConsistent) {
  const fs::path work = directory_.path() / "other";
  fs::create_directories(work);
  const pid_t child =
      StartChild(kWritingChildVariable, work, "--gtest_filter=CrashChild.DISABLED_WritesUntilItIsKilled");
  ASSERT_GT(child, 0);
  for (int wait = 0; wait < 500 && !fs::exists(work / "mem/MANIFEST.json"); ++wait) usleep(20'000);
  uint64_t last = 0;
  for (int round = 0; round < 6; ++round) {
    const fs::path path = snapshots_ / std::to_string(round);
    const auto info = CreateSnapshot(work / "mem", path);
    ASSERT_TRUE(IsOk(info)) << "round " << round;
    EXPECT_GT(info.value().truth_sequence, last) << "the child stands still";
    last = info.value().truth_sequence;
    const auto snapshot = Memory::Open(path, {});
    ASSERT_TRUE(IsOk(snapshot));
    const uint64_t documents = snapshot.value()->manifest().reference_documents;
    EXPECT_EQ(Digest(snapshot.value()->tables()), Digest(*MakeSmallTables(static_cast<int>(documents % 1000))));
    EXPECT_GE(DocumentsOf(path).size(), documents);
    EXPECT_TRUE(IsOk(VerifySnapshot(path)));
    const fs::path restored = directory_.path() / ("restored" + std::to_string(round));
    EXPECT_TRUE(IsOk(RestoreSnapshot(path, restored)));
    EXPECT_TRUE(Verify(restored).value().empty());
  }
  Kill(child);
}

}  // namespace
}  // namespace pointsman
