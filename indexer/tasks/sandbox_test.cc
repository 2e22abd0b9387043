#include "indexer/tasks/sandbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace pointsman {
namespace {

using testing::HasSubstr;
using testing::Not;

// Processes anywhere on this machine whose command line contains `word`.
std::vector<std::string> ProcessesWith(const std::string& word) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    std::string line((std::istreambuf_iterator<char>(file)), {});
    if (line.find(word) != std::string::npos) found.push_back(entry.path().filename().string() + ": " + line);
  }
  return found;
}

// A word that no other process has in its command line.
std::string Unique(const std::string& name) { return "pointsman_" + name + "_" + std::to_string(getpid()); }

class Sandbox : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!isolated()) return;
    const auto tried = RunSandboxed("true", {}, limits_, true);
    if (!tried.ok()) GTEST_SKIP() << tried.error().message;
  }
  bool isolated() const { return GetParam(); }

  // "exit 0", "signal 9", "time" and what was printed.
  std::string Run(const std::string& command, const std::vector<SandboxFile>& files = {}) {
    const auto result = RunSandboxed(command, files, limits_, isolated());
    if (!result.ok()) return "error: " + result.error().message;
    const SandboxOutcome& o = result.value();
    const std::string end = o.end == SandboxEnd::kTimedOut   ? "time"
                            : o.end == SandboxEnd::kSignaled ? "signal " + std::to_string(o.code)
                                                             : "exit " + std::to_string(o.code);
    return end + ": " + o.output;
  }

  SandboxLimits limits_{.seconds = 5};
};
INSTANTIATE_TEST_SUITE_P(Isolated, Sandbox, testing::Values(true));
INSTANTIATE_TEST_SUITE_P(NotIsolated, Sandbox, testing::Values(false));

TEST_P(Sandbox, RunsACommandOnItsFiles) {
  EXPECT_EQ(Run("cat a b; cat >c; wc -c <c; exit 3", {{"a", "one\n"}, {"b", std::string("t\0o\n", 4)}}),
            std::string("exit 3: one\nt\0o\n0\n", 18));
  EXPECT_EQ(Run("echo no >&2; kill -TERM $$"), "signal 15: no\n");
  EXPECT_THAT(Run("no_such_command"), HasSubstr("exit 127: "));
  EXPECT_EQ(Run("true", {{"../a", ""}}), "error: '../a': not a plain file name for the sandbox");
}

TEST_P(Sandbox, KeepsTheEndOfLongOutput) {
  const std::string printed = Run("yes x | head -c 3000000; echo end");
  EXPECT_EQ(printed.size(), std::string("exit 0: ").size() + 4096);
  EXPECT_THAT(printed, testing::EndsWith("x\nend\n"));
}

TEST_P(Sandbox, EndsALoopForEver) {
  limits_.seconds = 0.5;
  const auto started = std::chrono::steady_clock::now();
  EXPECT_EQ(Run("echo on; while :; do :; done"), "time: on\n");
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(4));
}

TEST_P(Sandbox, NothingSurvives) {
  const std::string word = Unique("orphan");
  // In the group, in a session of its own, and orphaned twice over, all deaf to signals that can be ignored.
  const std::string left = "trap '' TERM HUP INT; sh -c 'sleep 61; : " + word +
                           "' & setsid sh -c 'sleep 62; : " + word + "' & (setsid sh -c '(sleep 63; : " + word +
                           ") &' &) ; sleep 0.2; ";
  EXPECT_EQ(Run(left + "echo done"), "exit 0: done\n");
  EXPECT_THAT(ProcessesWith(word), testing::IsEmpty());
  limits_.seconds = 0.8;
  EXPECT_EQ(Run(left + "sleep 60"), "time: ");
  EXPECT_THAT(ProcessesWith(word), testing::IsEmpty());
}

TEST_P(Sandbox, AForkBombEnds) {
  if (!isolated() && geteuid() == 0) GTEST_SKIP() << "root has no limit of processes without isolation";
  limits_.seconds = 2;
  limits_.processes = 20;
  const std::string word = Unique("bomb");
  const std::string bomb = "echo 'sh bomb " + word + " & sh bomb " + word + " & wait' >bomb; sh bomb " + word;
  EXPECT_THAT(Run(bomb), HasSubstr("fork"));
  EXPECT_THAT(ProcessesWith(word), testing::IsEmpty());
}

TEST_P(Sandbox, ALargeFileIsCutShort) {
  limits_.file_bytes = 1 << 20;
  EXPECT_EQ(Run("head -c 5000000 /dev/zero >big; echo $?; wc -c <big"),
            "exit 0: File size limit exceeded\n153\n1048576\n");
}

TEST_P(Sandbox, TooMuchMemoryIsRefused) {
  limits_.memory_bytes = 64 << 20;
  EXPECT_THAT(Run("head -c 200000000 /dev/zero | tail"), HasSubstr("memory exhausted"));
}

class Isolation : public Sandbox {};
INSTANTIATE_TEST_SUITE_P(Isolated, Isolation, testing::Values(true));

TEST_P(Isolation, FilesOfTheMachineAreReadOnlyOrNotThere) {
  const std::filesystem::path mine = std::filesystem::temp_directory_path() / Unique("file");
  std::ofstream(mine) << "secret";
  EXPECT_THAT(Run("cat " + mine.string()), HasSubstr("No such file"));
  std::filesystem::remove(mine);
  EXPECT_THAT(Run("touch /usr/x"), HasSubstr("Read-only file system"));
  EXPECT_THAT(Run("touch /root/x"), Not(HasSubstr("exit 0")));
  EXPECT_EQ(Run("ls -A /root /home /run /var/tmp | grep -v ':$' | grep .; pwd"), "exit 0: /tmp/work\n");
  EXPECT_THAT(Run("mount -o remount,rw /"), Not(HasSubstr("exit 0")));
  EXPECT_THAT(Run("echo x >/dev/null && head -c 3 /dev/zero | wc -c; ls /dev | tr '\\n' ' '"),
              testing::StrEq("exit 0: 3\nfd full null random shm stderr stdin stdout urandom zero "));
}

TEST_P(Isolation, AllFilesTogetherAreLimited) {
  limits_.file_bytes = 1 << 20;
  EXPECT_THAT(Run("for i in 1 2 3; do head -c 600000 /dev/zero >$i || exit 7; done"),
              testing::AllOf(HasSubstr("exit 7"), HasSubstr("No space left on device")));
}

TEST_P(Isolation, ThereIsNoNetwork) {
  EXPECT_EQ(Run("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '"), "exit 0: lo\n");
  EXPECT_THAT(Run("bash -c 'exec 3<>/dev/tcp/192.0.2.1/53'"), HasSubstr("Network is unreachable"));
}

TEST_P(Isolation, TheCommandIsNobodyAndCannotBecomeMore) {
  EXPECT_EQ(Run("id -u; grep -E 'CapPrm|CapEff|NoNewPrivs' /proc/self/status | tr -d ' \\t'"),
            "exit 0: 65534\nCapPrm:0000000000000000\nCapEff:0000000000000000\nNoNewPrivs:1\n");
  EXPECT_THAT(Run("unshare -r id"), Not(HasSubstr("exit 0")));
}

TEST_P(Isolation, KillingEverybodyKillsNobodyElse) {
  const std::string said = Run("echo $PPID; kill -9 $PPID; kill -9 -1; echo alive");
  EXPECT_THAT(said, HasSubstr("1\n")) << "the parent is process 1 of its own world";
  EXPECT_THAT(said, testing::AnyOf(HasSubstr("exit 0"), HasSubstr("signal 9")));
  EXPECT_EQ(Run("cd /proc; echo [0-9]*"), "exit 0: 1 2\n") << "the supervisor and sh";
}

TEST_P(Isolation, ManyAtOnceDoNotMeet) {
  std::vector<std::string> said(8);
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < said.size(); ++i) {
    threads.emplace_back([&, i] { said[i] = Run("sleep 0.1; cat a; ls", {{"a", std::to_string(i) + "\n"}}); });
  }
  threads.clear();
  for (size_t i = 0; i < said.size(); ++i) EXPECT_EQ(said[i], "exit 0: " + std::to_string(i) + "\na\n");
}

// A supervisor that the code kills cannot clean up any more; its caller still ends, and says so.
TEST(NotIsolated, KillingTheParentIsSeen) {
  const auto result = RunSandboxed("kill -9 $PPID; sleep 0.1", {}, {.seconds = 1}, false);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result.value().end, SandboxEnd::kSignaled);
  EXPECT_FALSE(result.value().passed());
}

}  // namespace
}  // namespace pointsman
