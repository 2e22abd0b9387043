#include "daemon/log.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

namespace pointsman {
namespace {

using nlohmann::json;

class LogFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("log_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  std::unique_ptr<Log> Open(LogOptions options) {
    options.file = folder_ / "log";
    auto log = Log::Open(options);
    EXPECT_TRUE(log.ok()) << log.error().message;
    return std::move(log).value();
  }
  std::vector<std::string> Lines(const std::string& name = "log") const {
    std::ifstream in(folder_ / name);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  std::filesystem::path folder_;
};

TEST_F(LogFiles, TextLinesHaveTimeLevelEventAndFields) {
  const auto log = Open({});
  log->Write(LogLevel::kInfo, "memory swapped", {{"generation", 3}, {"memory", "a"}});
  log->Write(LogLevel::kDebug, "not at this level");
  ASSERT_EQ(Lines().size(), 1u);
  EXPECT_TRUE(std::regex_match(
      Lines()[0], std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info memory swapped generation=3 memory=a)")))
      << Lines()[0];
}

TEST_F(LogFiles, AValueCannotForgeALineOrAField) {
  const auto log = Open({});
  log->Write(LogLevel::kWarning, "refused", {{"path", "/a\nfake error x=1"}, {"q", "a b=\"c\""}, {"bad", "\xff"}});
  ASSERT_EQ(Lines().size(), 1u);
  EXPECT_NE(Lines()[0].find(R"(path="/a\nfake error x=1")"), std::string::npos) << Lines()[0];
  EXPECT_NE(Lines()[0].find(R"(q="a b=\"c\"")"), std::string::npos);
}

TEST_F(LogFiles, JsonLinesParse) {
  const auto log = Open({.json = true});
  log->Write(LogLevel::kError, "x", {{"n", 1}});
  const json line = json::parse(Lines().at(0));
  EXPECT_EQ(line["level"], "error");
  EXPECT_EQ(line["event"], "x");
  EXPECT_EQ(line["n"], 1);
}

TEST_F(LogFiles, TheAuditFileIsPrivateAndJson) {
  const auto log = Open({.audit_file = folder_ / "audit"});
  log->Audit("alice", "memory.load", {{"memory", "a"}}, "ok");
  struct stat status {};
  ASSERT_EQ(stat((folder_ / "audit").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const json line = json::parse(Lines("audit").at(0));
  EXPECT_EQ(line["principal"], "alice");
  EXPECT_EQ(line["event"], "memory.load");
  EXPECT_EQ(line["outcome"], "ok");
  EXPECT_TRUE(Lines().empty());
}

TEST_F(LogFiles, ReopenFollowsRotation) {
  const auto log = Open({});
  log->Write(LogLevel::kInfo, "one");
  std::filesystem::rename(folder_ / "log", folder_ / "log.1");
  ASSERT_TRUE(log->Reopen().ok());
  log->Write(LogLevel::kInfo, "two");
  EXPECT_EQ(Lines().size(), 1u);
  EXPECT_EQ(Lines("log.1").size(), 1u);
}

TEST_F(LogFiles, LinesOfManyThreadsStayWhole) {
  const auto log = Open({.json = true});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) log->Write(LogLevel::kInfo, "line", {{"text", std::string(300, 'x')}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto lines = Lines();
  EXPECT_EQ(lines.size(), 800u);
  for (const std::string& line : lines) EXPECT_TRUE(json::accept(line));
}

TEST(LogTest, AFullDiskIsCountedAndNothingElse) {
  const auto log = Log::Open({.file = "/dev/full"});
  ASSERT_TRUE(log.ok()) << log.error().message;
  log.value()->Write(LogLevel::kInfo, "x");
  EXPECT_EQ(log.value()->failed_writes(), 1u);
}

TEST(LogTest, AFileThatCannotBeOpenedIsAnError) {
  const auto log = Log::Open({.file = "/nowhere/log"});
  ASSERT_FALSE(log.ok());
  EXPECT_NE(log.error().message.find("/nowhere/log"), std::string::npos);
}

}  // namespace
}  // namespace pointsman
