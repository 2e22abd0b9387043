#include "memory/file_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "memory/fault_injection.h"
#include "memory/test_support.h"

namespace pointsman {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using Operation = FaultyFileSystem::Operation;

class EmptyDirectory : public testing::Test {
 protected:
  std::vector<std::string> Names() { return FileSystem::Real().List(directory_).value(); }

  TemporaryDirectory temporary_;
  std::filesystem::path directory_ = temporary_.path();
  FaultyFileSystem files_;
};

std::string Text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_F(EmptyDirectory, WhatIsWrittenIsReadAndMapped) {
  const std::string text(200000, 'x');
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "a", text).ok());
  EXPECT_EQ(files_.ReadFile(directory_ / "a").value(), text);
  EXPECT_EQ(Text(*files_.Map(directory_ / "a").value()), text);
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "a", "short").ok());
  EXPECT_EQ(files_.ReadFile(directory_ / "a").value(), "short");
  EXPECT_THAT(Names(), ElementsAre("a"));
}

TEST_F(EmptyDirectory, AnEmptyFileMapsToNoBytes) {
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "empty", "").ok());
  EXPECT_TRUE(files_.Map(directory_ / "empty").value()->bytes().empty());
}

TEST_F(EmptyDirectory, ErrorsNameThePathAndARemedy) {
  const std::string missing = (directory_ / "no such file").string();
  auto read = files_.ReadFile(missing);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read.error().message, missing + ": cannot open: No such file or directory; check the path");
  EXPECT_EQ(files_.Map(missing).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(files_.Create(directory_ / "no" / "file").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(files_.List(missing).error().code, ErrorCode::kNotFound);
  auto directory = files_.Map(directory_);
  ASSERT_FALSE(directory.ok());
  EXPECT_THAT(directory.error().message, AllOf(HasSubstr(directory_.string()), HasSubstr("directory")));
}

TEST_F(EmptyDirectory, RemoveTakesTreesAndDoesNotMindWhatIsNotThere) {
  ASSERT_TRUE(files_.CreateDirectories(directory_ / "a/b/c").ok());
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "a/b/file", "1").ok());
  EXPECT_TRUE(files_.Exists(directory_ / "a/b/file"));
  EXPECT_TRUE(files_.Remove(directory_ / "a").ok());
  EXPECT_TRUE(files_.Remove(directory_ / "a").ok());
  EXPECT_FALSE(files_.Exists(directory_ / "a"));
}

TEST_F(EmptyDirectory, ListIsSorted) {
  for (const char* name : {"b", "a", "c"}) ASSERT_TRUE(files_.WriteAtomically(directory_ / name, "").ok());
  EXPECT_THAT(Names(), ElementsAre("a", "b", "c"));
}

TEST(ErrnoError, SortsTheOperatingSystemsReasons) {
  EXPECT_EQ(ErrnoError("f", "write", ENOSPC).code, ErrorCode::kNoSpace);
  EXPECT_EQ(ErrnoError("f", "write", EDQUOT).code, ErrorCode::kNoSpace);
  EXPECT_EQ(ErrnoError("f", "open", ENOENT).code, ErrorCode::kNotFound);
  EXPECT_EQ(ErrnoError("f", "read", EIO).code, ErrorCode::kIo);
  EXPECT_THAT(ErrnoError("f", "open", EACCES).message, HasSubstr("permissions"));
}

TEST_F(EmptyDirectory, AnAtomicWriteThatFailsKeepsTheOldContent) {
  const std::filesystem::path path = directory_ / "manifest";
  ASSERT_TRUE(files_.WriteAtomically(path, "old").ok());
  for (Operation operation : {Operation::kCreate, Operation::kWrite, Operation::kSync, Operation::kRename}) {
    files_.FailFrom(operation, 1);
    const Status failed = files_.WriteAtomically(path, "new content");
    files_.Heal();
    ASSERT_FALSE(failed.ok());
    EXPECT_THAT(failed.error().message, HasSubstr("manifest"));
    EXPECT_EQ(files_.ReadFile(path).value(), "old");
    EXPECT_THAT(Names(), ElementsAre("manifest"));
  }
}

TEST_F(EmptyDirectory, AnAtomicWriteOnAFullDiskKeepsTheOldContent) {
  const std::filesystem::path path = directory_ / "manifest";
  ASSERT_TRUE(files_.WriteAtomically(path, "old").ok());
  files_.LimitBytes(4);
  const Status full = files_.WriteAtomically(path, "new content");
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().code, ErrorCode::kNoSpace);
  EXPECT_EQ(files_.ReadFile(path).value(), "old");
  EXPECT_THAT(Names(), ElementsAre("manifest"));
}

TEST_F(EmptyDirectory, AnAtomicWriteSyncsFileThenDirectory) {
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "a", "1").ok());
  EXPECT_EQ(files_.count(Operation::kSync), 1);
  EXPECT_EQ(files_.count(Operation::kSyncDirectory), 1);
}

TEST_F(EmptyDirectory, FaultsOfReadingTouchOnlyTheFileNamed) {
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "a", "AAAA").ok());
  ASSERT_TRUE(files_.WriteAtomically(directory_ / "b", "AAAA").ok());
  files_.FlipBit("a", 1, 1);
  EXPECT_EQ(files_.ReadFile(directory_ / "a").value(), "ACAA");
  EXPECT_EQ(Text(*files_.Map(directory_ / "a").value()), "ACAA");
  EXPECT_EQ(Text(*files_.Map(directory_ / "b").value()), "AAAA");
  files_.Truncate("b", 2);
  EXPECT_EQ(files_.ReadFile(directory_ / "b").value(), "AA");
  files_.Heal();
  EXPECT_EQ(files_.ReadFile(directory_ / "a").value(), "AAAA");
}

}  // namespace
}  // namespace pointsman
