// Against the tar of this machine.
#include "daemon/tar.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <memory>

#include "memory/test_support.h"

namespace pointsman {
namespace {

std::string OutputOf(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  std::array<char, 4096> buffer;
  while (const size_t got = fread(buffer.data(), 1, buffer.size(), pipe.get())) output.append(buffer.data(), got);
  return output;
}

TEST(Tar, IsReadByTheSystemsTar) {
  const TemporaryDirectory directory;
  std::string archive;
  const std::string long_path = std::string(60, 'a') + "/" + std::string(39, 'b');  // 100 bytes
  const std::string contents[] = {"", "x", std::string(512, 'y'), std::string(1000, 'z')};
  const std::string paths[] = {"empty", "s/one", "s/block", long_path};
  for (size_t i = 0; i < 4; ++i) {
    const auto header = TarHeader({.path = paths[i], .bytes = contents[i].size(), .modified_unix_s = 1'700'000'000});
    ASSERT_TRUE(IsOk(header));
    archive += header.value() + contents[i] + TarPadding(contents[i].size());
    EXPECT_EQ(archive.size() % 512, 0u);
  }
  WriteBytes(directory.path() / "a.tar", archive + TarEnd());
  const std::string in = "cd " + directory.path().string() + " && TZ=UTC ";
  EXPECT_EQ(OutputOf(in + "tar -xf a.tar 2>&1"), "");
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(ReadBytes(directory.path() / paths[i]), contents[i]) << paths[i];
  const std::string listed = OutputOf(in + "tar -tvf a.tar 2>&1");
  EXPECT_NE(listed.find("-rw-r--r-- 0/0"), std::string::npos) << listed;
  EXPECT_NE(listed.find("2023-11-14 22:13"), std::string::npos) << listed;
}

TEST(Tar, SaysSizesOf8GiBAndMore) {
  const TemporaryDirectory directory;
  for (const uint64_t bytes : {(uint64_t{1} << 33) - 1, uint64_t{1} << 33, (uint64_t{1} << 40) + 12345}) {
    WriteBytes(directory.path() / "a.tar", TarHeader({.path = "big", .bytes = bytes}).value());
    const std::string listed = OutputOf("tar -tvf " + (directory.path() / "a.tar").string() + " 2>/dev/null");
    EXPECT_NE(listed.find(" " + std::to_string(bytes) + " "), std::string::npos) << listed;
  }
}

TEST(Tar, RefusesPathsThatItCannotHold) {
  EXPECT_EQ(TarHeader({.path = ""}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(TarHeader({.path = std::string(101, 'a')}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace pointsman
