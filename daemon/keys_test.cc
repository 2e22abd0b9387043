#include "daemon/keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "memory/hash.h"

namespace pointsman {
namespace {

class KeyFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("keys_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    file_ = folder_ / "keys";
  }
  void Write(const std::string& text, mode_t mode = 0600) {
    const auto temporary = folder_ / "new";
    std::ofstream(temporary) << text;
    chmod(temporary.c_str(), mode);
    std::filesystem::rename(temporary, file_);
  }
  std::string Read() const {
    std::stringstream text;
    text << std::ifstream(file_).rdbuf();
    return text.str();
  }
  std::string Refusal(const std::string& text, mode_t mode = 0600) {
    Write(text, mode);
    const auto store = KeyStore::Open(file_);
    return store.ok() ? "" : store.error().message;
  }

  std::filesystem::path folder_, file_;
};

// As a package makes it: the server's, filled by root.
TEST_F(KeyFile, AFileKeepsItsOwner) {
  if (geteuid() != 0) GTEST_SKIP() << "only root may give a file away";
  constexpr uid_t kOther = 1;
  Write("");
  ASSERT_EQ(chown(file_.c_str(), kOther, kOther), 0);
  for (const char* name : {"first", "second"}) {
    const auto key = MakeKey(name, Access::kRead, {});
    ASSERT_TRUE(key.ok());
    ASSERT_TRUE(AppendKey(file_, key.value()).ok());
  }
  ASSERT_TRUE(RevokeKeys(file_, "first").ok());
  struct stat status {};
  ASSERT_EQ(stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, kOther);
  EXPECT_EQ(status.st_gid, kOther);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_TRUE(Read().starts_with("# name access"));
}

// Whoever may write to the folder could else have root overwrite, and give away, any file.
TEST_F(KeyFile, ALinkThatSomebodyLeftIsNotFollowed) {
  const auto precious = folder_ / "precious";
  std::ofstream(precious) << "precious";
  std::filesystem::create_symlink(precious, file_.string() + ".tmp");
  const auto key = MakeKey("alice", Access::kRead, {});
  ASSERT_TRUE(key.ok());
  ASSERT_TRUE(AppendKey(file_, key.value()).ok());
  EXPECT_FALSE(std::filesystem::is_symlink(file_));
  std::stringstream kept;
  kept << std::ifstream(precious).rdbuf();
  EXPECT_EQ(kept.str(), "precious");
}

TEST_F(KeyFile, AKeyThatWasMadeOpensWhatItsLineSays) {
  const auto key = MakeKey("alice", Access::kWrite, {"legal", "support"});
  ASSERT_TRUE(key.ok()) << key.error().message;
  EXPECT_EQ(key.value().key.size(), 46u);
  EXPECT_TRUE(key.value().key.starts_with("pm-"));
  ASSERT_TRUE(AppendKey(file_, key.value()).ok());
  struct stat status {};
  ASSERT_EQ(stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(Read().find(key.value().key), std::string::npos);  // hashed at rest

  const auto store = KeyStore::Open(file_);
  ASSERT_TRUE(store.ok()) << store.error().message;
  const auto who = store.value()->Authenticate(key.value().key);
  ASSERT_TRUE(who.ok());
  EXPECT_EQ(who.value().name, "alice");
  EXPECT_EQ(who.value().access, Access::kWrite);
  EXPECT_TRUE(who.value().MayUse("legal"));
  EXPECT_FALSE(who.value().MayUse("finance"));
}

TEST_F(KeyFile, AWrongKeyAndNoKeyAreToldTheSame) {
  const auto key = MakeKey("bob", Access::kRead, {});
  ASSERT_TRUE(AppendKey(file_, key.value()).ok());
  const auto store = KeyStore::Open(file_);
  ASSERT_TRUE(store.ok());
  const auto none = store.value()->Authenticate(""), wrong = store.value()->Authenticate("pm-" + std::string(43, 'A'));
  ASSERT_FALSE(none.ok());
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(none.error().message, wrong.error().message);
  EXPECT_FALSE(store.value()->Authenticate(key.value().key + std::string(1000, 'x')).ok());
}

TEST_F(KeyFile, KeysAreRotatedWithoutARestart) {
  const auto old_key = MakeKey("ci", Access::kRead, {}), new_key = MakeKey("ci", Access::kRead, {});
  Write(old_key.value().line + "\n");
  const auto store = KeyStore::Open(file_);
  ASSERT_TRUE(store.ok());
  // Both are good while both lines are there.
  ASSERT_TRUE(AppendKey(file_, new_key.value()).ok());
  ASSERT_TRUE(store.value()->Refresh().ok());
  EXPECT_TRUE(store.value()->Authenticate(old_key.value().key).ok());
  EXPECT_TRUE(store.value()->Authenticate(new_key.value().key).ok());
  Write(new_key.value().line + "\n");
  ASSERT_TRUE(store.value()->Refresh().ok());
  EXPECT_FALSE(store.value()->Authenticate(old_key.value().key).ok());
  EXPECT_TRUE(store.value()->Authenticate(new_key.value().key).ok());
}

TEST_F(KeyFile, ABrokenFileKeepsTheKeysThatWere) {
  const auto key = MakeKey("ci", Access::kAdmin, {});
  Write(key.value().line + "\n");
  const auto store = KeyStore::Open(file_);
  ASSERT_TRUE(store.ok());
  Write("ci admin nonsense\n");
  const Status refreshed = store.value()->Refresh();
  ASSERT_FALSE(refreshed.ok());
  EXPECT_NE(refreshed.error().message.find(":1: the third column is the SHA-256"), std::string::npos)
      << refreshed.error().message;
  EXPECT_TRUE(store.value()->Authenticate(key.value().key).ok());
}

TEST_F(KeyFile, WhatIsWrongIsNamedWithItsLine) {
  const std::string hash = Sha256Hex("x");
  EXPECT_NE(Refusal("# nothing\n").find("holds no key"), std::string::npos);
  EXPECT_NE(Refusal("\na b/c " + hash + "\n").find(":2: access 'b/c'; use read-only"), std::string::npos);
  EXPECT_NE(Refusal("a/b admin " + hash + "\n").find(":1: a name has"), std::string::npos);
  EXPECT_NE(Refusal("a admin " + hash + " m,,n\n").find("an empty name"), std::string::npos);
  EXPECT_NE(Refusal("a admin " + hash + " m n\n").find("more than four columns"), std::string::npos);
  EXPECT_NE(Refusal("a admin " + hash + "\n", 0644).find("chmod 600"), std::string::npos);
  EXPECT_EQ(KeyStore::Open(folder_ / "absent").error().code, ErrorCode::kNotFound);
}

TEST(KeyStoreTest, WithoutAFileEverybodyIsTheAdministrator) {
  const auto store = KeyStore::Open({});
  ASSERT_TRUE(store.ok());
  EXPECT_FALSE(store.value()->enabled());
  EXPECT_EQ(store.value()->Authenticate("").value().access, Access::kAdmin);
}

TEST_F(KeyFile, KeysAreListedWithoutWhatLetsIn) {
  const auto alice = MakeKey("alice", Access::kWrite, {"legal"}), bob = MakeKey("bob", Access::kAdmin, {});
  ASSERT_TRUE(AppendKey(file_, alice.value()).ok() && AppendKey(file_, bob.value()).ok());
  const auto listed = ListKeys(file_);
  ASSERT_TRUE(listed.ok()) << listed.error().message;
  ASSERT_EQ(listed.value().size(), 2u);
  EXPECT_EQ(listed.value()[0].holder.name, "alice");
  EXPECT_EQ(*listed.value()[0].holder.memories, std::set<std::string>{"legal"});
  EXPECT_EQ(listed.value()[0].id, Sha256Hex(alice.value().key).substr(0, 12));
  EXPECT_EQ(listed.value()[1].holder.access, Access::kAdmin);
}

TEST_F(KeyFile, AKeyIsRotatedByAddingOneAndRevokingTheOther) {
  const auto old_key = MakeKey("alice", Access::kRead, {}), new_key = MakeKey("alice", Access::kRead, {}),
             bob = MakeKey("bob", Access::kRead, {});
  for (const auto* key : {&old_key, &new_key, &bob}) ASSERT_TRUE(AppendKey(file_, key->value()).ok());
  const auto store = KeyStore::Open(file_);
  const auto revoked = RevokeKeys(file_, Sha256Hex(old_key.value().key).substr(0, 12));
  ASSERT_TRUE(revoked.ok()) << revoked.error().message;
  EXPECT_EQ(revoked.value().size(), 1u);
  ASSERT_TRUE(store.value()->Refresh().ok());
  EXPECT_FALSE(store.value()->Authenticate(old_key.value().key).ok());
  EXPECT_TRUE(store.value()->Authenticate(new_key.value().key).ok());
  EXPECT_TRUE(store.value()->Authenticate(bob.value().key).ok());
  EXPECT_TRUE(Read().starts_with("# name access"));
}

TEST_F(KeyFile, TheLastKeyCannotBeRevoked) {
  const auto first = MakeKey("alice", Access::kRead, {}), second = MakeKey("alice", Access::kRead, {});
  ASSERT_TRUE(AppendKey(file_, first.value()).ok() && AppendKey(file_, second.value()).ok());
  const std::string before = Read();
  const auto all = RevokeKeys(file_, "alice");
  ASSERT_FALSE(all.ok());
  EXPECT_EQ(all.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(all.error().message.find("add another first"), std::string::npos);
  const auto none = RevokeKeys(file_, "carol");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(Read(), before);
}

}  // namespace
}  // namespace pointsman
