#include "memory/rocksdb_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/io_status.h>

#include <string>

namespace pointsman {
namespace {

using rocksdb::Status;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(RocksDbErrors, BecomeOursByMeaning) {
  const struct {
    Status status;
    ErrorCode code;
    const char* remedy;
  } cases[] = {
      {Status::Corruption("block checksum mismatch", "000012.sst"), ErrorCode::kCorrupt, "restore the memory"},
      {Status::PathNotFound("while opening", "MANIFEST-000005"), ErrorCode::kCorrupt, "restore the memory"},
      {Status::NoSpace("while appending"), ErrorCode::kNoSpace, "free space"},
      {Status::IOError("lock hold by current process, acquire time 1", "truth/LOCK"), ErrorCode::kBusy, "wait for it"},
      {Status::IOError("While lock file: truth/LOCK: Resource temporarily unavailable"), ErrorCode::kBusy,
       "wait for it"},
      {Status::IOError("While open a file for lock: truth/LOCK: Permission denied"), ErrorCode::kIo, "the permissions"},
      {Status::NotSupported("compression"), ErrorCode::kUnsupported, "that wrote it"},
      {Status::Aborted("busy"), ErrorCode::kInternal, "again"},
  };
  for (const auto& expected : cases) {
    const Error error = RocksDbError("mem/truth", "write a document", expected.status);
    EXPECT_EQ(error.code, expected.code) << error.message;
    EXPECT_THAT(error.message, StartsWith("mem/truth: cannot write a document: "));
    EXPECT_THAT(error.message, HasSubstr(expected.remedy));
  }
}

TEST(RocksDbErrors, StayOnOneLine) {
  const Error error = RocksDbError("mem/truth", "open it", Status::Corruption("first\nsecond\tthird"));
  EXPECT_THAT(error.message, HasSubstr("first second third"));
}

TEST(RocksDbSettings, KeepChecksOnAndResourcesBounded) {
  const rocksdb::Options options = MakeRocksDbOptions(/*create=*/false, /*env=*/nullptr);
  EXPECT_FALSE(options.create_if_missing);
  EXPECT_TRUE(options.paranoid_checks);
  EXPECT_TRUE(options.atomic_flush);
  EXPECT_FALSE(options.allow_mmap_reads);
  EXPECT_LE(options.max_background_jobs, 2);
  EXPECT_GT(options.max_open_files, 0);
  EXPECT_NE(options.info_log, nullptr) << "RocksDB would write LOG files";
}

}  // namespace
}  // namespace pointsman
