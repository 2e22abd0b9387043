// A deletion that the file system, a full disk or a kill ends anywhere: the same call finishes it later.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "memory/deletion.h"
#include "memory/fault_injection.h"
#include "memory/full_disk_env.h"
#include "memory/test_deletion.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

TEST_F(DeletionTest, AFaultOfTheFileSystemAnywhereIsFinishedLater) {
  using Operation = FaultyFileSystem::Operation;
  int faults = 0;
  for (const Operation operation : {Operation::kCreate, Operation::kWrite, Operation::kSync, Operation::kRename,
                                    Operation::kSyncDirectory, Operation::kRemove}) {
    for (int64_t nth = 1;; ++nth) {
      SCOPED_TRACE("operation " + std::to_string(static_cast<int>(operation)) + ", the " + std::to_string(nth) + "th");
      const fs::path copy = CopyOf("copy");
      FaultyFileSystem files;
      bool failed = false;
      {
        auto writer = MemoryWriter::Open(copy, {.files = &files});
        ASSERT_TRUE(IsOk(writer));
        files.FailFrom(operation, nth);
        failed = !DeleteDocuments(*writer.value(), std::vector{kGone}).ok();
      }
      if (!failed) break;
      ++faults;
      ExpectFinishes(copy);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(faults, 20);
}

TEST_F(DeletionTest, AFullDiskUnderTruthAnywhereIsFinishedLater) {
  int faults = 0;
  for (int64_t budget = 0;; budget += 3000) {
    SCOPED_TRACE(std::to_string(budget) + " bytes left");
    const fs::path copy = CopyOf("copy");
    const auto disk = MakeFullDiskEnv(budget);
    bool failed = false;
    {
      auto writer = MemoryWriter::Open(copy, {.store_env = disk.get()});
      failed = !writer.ok() || !DeleteDocuments(*writer.value(), std::vector{kGone}).ok();
    }
    if (!failed) break;
    ++faults;
    ExpectFinishes(copy);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(faults, 10);
}

constexpr const char* kChildVariable = "POINTSMAN_DELETION_TEST_MEMORY";

TEST(DeletionChild, DISABLED_DeletesUntilItIsKilled) {
  const char* memory = std::getenv(kChildVariable);
  ASSERT_NE(memory, nullptr) << "only DeletionTest starts this";
  auto writer = MemoryWriter::Open(memory, {});
  ASSERT_TRUE(IsOk(writer));
  ASSERT_TRUE(IsOk(DeleteDocuments(*writer.value(), std::vector{kGone})));
}

TEST_F(DeletionTest, AKillAnywhereIsFinishedLater) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  int killed = 0;
  useconds_t longest_us = 400'000;
  for (int round = 0; round < 24; ++round) {
    const fs::path copy = CopyOf("copy");
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      setenv(kChildVariable, copy.c_str(), 1);
      const int null = open("/dev/null", O_WRONLY);
      dup2(null, STDOUT_FILENO);
      execl("/proc/self/exe", "memory_test", "--gtest_also_run_disabled_tests",
            "--gtest_filter=DeletionChild.DISABLED_DeletesUntilItIsKilled", static_cast<char*>(nullptr));
      _exit(127);
    }
    usleep(std::uniform_int_distribution<useconds_t>(0, longest_us)(random));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    killed += WIFSIGNALED(status);
    if (!WIFSIGNALED(status)) longest_us = longest_us * 3 / 4 + 1000;  // aim at the time that it takes here
    ExpectFinishes(copy);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(killed, 0) << "the child was too quick to be killed";
}

}  // namespace
}  // namespace pointsman
