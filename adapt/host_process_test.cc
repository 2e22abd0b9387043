#include "adapt/host_process.h"

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <string>

namespace pointsman {
namespace {

// A child whose standard input is the socket, in both directions.
Result<std::unique_ptr<HostProcess>> Shell(const std::string& script) {
  return HostProcess::Start({"sh", "-c", script}, {"POINTSMAN_TEST_WORD=sent"});
}

TEST(HostProcess, MessagesComeBackAsTheyWereSent) {
  auto process = Shell("exec cat <&0 >&0");
  ASSERT_TRUE(process.ok());
  // Small enough for the socket: the echo stops reading when nobody reads it.
  const at::Tensor numbers = at::arange(3000, at::kFloat).view({100, 30}), ids = at::arange(6, at::kLong);
  const at::Tensor across = numbers.t();  // not contiguous
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(process.value()->Send({{{"ask", "losses"}, {"pass", i}}, {ids, across, at::zeros({0, 4})}}).ok());
    const auto message = process.value()->Receive();
    ASSERT_TRUE(message.ok()) << message.error().message;
    EXPECT_EQ(message.value().head["pass"], i);
    ASSERT_EQ(message.value().arrays.size(), 3u);
    EXPECT_TRUE(message.value().arrays[0].equal(ids));
    EXPECT_TRUE(message.value().arrays[1].equal(across));
    EXPECT_EQ(message.value().arrays[2].sizes(), (std::vector<int64_t>{0, 4}));
  }
}

TEST(HostProcess, ItsEndIsAnErrorAndStaysOne) {
  auto process = Shell("exit 3");
  ASSERT_TRUE(process.ok());
  for (int i = 0; i < 2; ++i) {
    const auto message = process.value()->Receive();
    ASSERT_FALSE(message.ok());
    EXPECT_EQ(message.error().message, "sh -c exit 3: ended with exit status 3, its message is above");
    EXPECT_FALSE(process.value()->Send({}).ok());
  }
}

TEST(HostProcess, WhatIsNotAMessageIsRefused) {
  for (const std::string bytes : {
           R"(\377\377\377\377\377\377\377\377)",                               // no such length
           R"(\002\0\0\0\0\0\0\0[])",                                           // no object
           R"(\035\0\0\0\0\0\0\0{"arrays":[["float32",[-1]]]})",                // no such size
           R"(\054\0\0\0\0\0\0\0{"arrays":[["float32",[99999999,99999999]]]})"  // too large
       }) {
    auto process = Shell("printf '" + bytes + "' >&0; exec cat <&0 >/dev/null");
    ASSERT_TRUE(process.ok());
    const auto message = process.value()->Receive();
    ASSERT_FALSE(message.ok()) << bytes;
    EXPECT_NE(message.error().message.find("is not a message"), std::string::npos) << message.error().message;
  }
}

TEST(HostProcess, TheEnvironmentIsOursWithChanges) {
  auto process = Shell(R"(test "$POINTSMAN_TEST_WORD" = sent && test -n "$PATH" && exit 4)");
  ASSERT_TRUE(process.ok());
  EXPECT_NE(process.value()->Receive().error().message.find("exit status 4"), std::string::npos);
}

TEST(HostProcess, AProgramThatIsNotThereIsNamed) {
  const auto process = HostProcess::Start({"/nowhere/python"}, {});
  ASSERT_FALSE(process.ok());
  EXPECT_EQ(process.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(process.error().message, "/nowhere/python: cannot be started (No such file or directory)");
}

}  // namespace
}  // namespace pointsman
