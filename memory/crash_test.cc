// kill -9 at random moments: a child of this test binary puts documents, syncs and publishes in a loop and tells
// through a file what it acknowledged; after every kill the store must hold a gapless prefix with everything
// acknowledged.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChildVariable = "POINTSMAN_CRASH_TEST_DIRECTORY";
constexpr uint64_t kSyncEvery = 5;
constexpr uint64_t kPublishEvery = 20;

// "<word> <number>\n", in one write: whole or absent after a kill.
void Acknowledge(int fd, const std::string& word, uint64_t number) {
  const std::string line = word + " " + std::to_string(number) + "\n";
  ASSERT_EQ(write(fd, line.data(), line.size()), static_cast<ssize_t>(line.size()));
}

uint64_t LastAcknowledged(const fs::path& file, const std::string& word) {
  std::ifstream lines(file);
  std::string name;
  uint64_t number = 0, last = 0;
  while (lines >> name >> number) {
    if (name == word) last = number;
  }
  return last;
}

// The child. Documents are numbered 1, 2, ..; each has one entry.
TEST(CrashChild, DISABLED_WritesUntilItIsKilled) {
  const char* directory = std::getenv(kChildVariable);
  ASSERT_NE(directory, nullptr) << "only CrashTest starts this";
  const int fd = open((fs::path(directory) / "acknowledged").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  auto writer = MemoryWriter::Open(fs::path(directory) / "mem", {.create = true});
  ASSERT_TRUE(IsOk(writer));
  EntryStore& store = writer.value()->store();
  uint64_t last = 0;
  ASSERT_TRUE(IsOk(store.ForEachDocument([&](const Document& document) -> Status {
    last = document.hash;
    return {};
  })));
  // The last kill may have come between a document and its entry; writing the entry again changes nothing.
  if (last > 0) {
    ASSERT_TRUE(IsOk(store.PutEntries(std::vector{MakeEntry(0, last, 0)})));
  }
  for (uint64_t number = last + 1;; ++number) {
    ASSERT_TRUE(IsOk(store.PutDocument(MakeDocument(number))));
    ASSERT_TRUE(IsOk(store.PutEntries(std::vector{MakeEntry(0, number, 0)})));
    Acknowledge(fd, "put", number);
    if (number % kSyncEvery == 0) {
      ASSERT_TRUE(IsOk(store.Sync()));
      Acknowledge(fd, "synced", number);
    }
    if (number % kPublishEvery == 0) {
      Manifest manifest = MakeManifest();
      manifest.reference_documents = number;
      ASSERT_TRUE(IsOk(writer.value()->Publish(*MakeSmallTables(static_cast<int>(number % 1000)), manifest)));
      Acknowledge(fd, "published", number);
    }
  }
}

class CrashTest : public ::testing::Test {
 protected:
  pid_t StartChild() {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is killed leaves no writer behind
    setenv(kChildVariable, directory_.path().c_str(), 1);
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    execl("/proc/self/exe", "memory_test", "--gtest_also_run_disabled_tests",
          "--gtest_filter=CrashChild.DISABLED_WritesUntilItIsKilled", static_cast<char*>(nullptr));
    _exit(127);
  }

  void CheckMemory() {
    const uint64_t put = LastAcknowledged(acknowledged_, "put");
    const uint64_t synced = LastAcknowledged(acknowledged_, "synced");
    const uint64_t published = LastAcknowledged(acknowledged_, "published");
    if (published > 0) {
      const auto memory = Memory::Open(path_, {});
      ASSERT_TRUE(IsOk(memory));
      const uint64_t shown = memory.value()->manifest().reference_documents;
      EXPECT_GE(shown, published);
      EXPECT_EQ(Digest(memory.value()->tables()), Digest(*MakeSmallTables(static_cast<int>(shown % 1000))));
    }
    if (put == 0) return;
    auto writer = MemoryWriter::Open(path_, {});
    ASSERT_TRUE(IsOk(writer));
    EntryStore& store = writer.value()->store();
    uint64_t documents = 0, entries = 0, changes = 0;
    ASSERT_TRUE(IsOk(store.ForEachDocument([&](const Document& document) -> Status {
      EXPECT_EQ(document.hash, ++documents) << "a gap";
      return {};
    })));
    ASSERT_TRUE(IsOk(store.ForEachEntry(0, [&](const StoredEntry& entry) -> Status {
      EXPECT_EQ(entry.id.document, ++entries) << "a gap";
      return {};
    })));
    ASSERT_TRUE(IsOk(store.ForEachChange(0, [&](const Change& change) -> Status {
      EXPECT_EQ(change.sequence, ++changes) << "a gap";
      return {};
    })));
    EXPECT_GE(documents, put) << "killing the process lost a write that returned";
    EXPECT_GE(documents, synced);
    EXPECT_LE(documents - entries, 1u);
    EXPECT_EQ(changes, store.LastSequence());
  }

  TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "mem";
  fs::path acknowledged_ = directory_.path() / "acknowledged";
};

TEST_F(CrashTest, ThirtyKillsLoseNothing) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::uniform_int_distribution<useconds_t> delay_us(20'000, 250'000);
  for (int round = 0; round < 30; ++round) {
    const pid_t child = StartChild();
    ASSERT_GT(child, 0);
    usleep(delay_us(random));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself with status " << WEXITSTATUS(status);
    CheckMemory();
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(LastAcknowledged(acknowledged_, "published"), 0u) << "the child was too slow to test anything";
  EXPECT_TRUE(Verify(path_).value().empty());
}

}  // namespace
}  // namespace pointsman
