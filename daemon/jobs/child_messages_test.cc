#include "daemon/jobs/child_messages.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(ChildMessagesTest, ProgressIsTakenOutWhereverTheReadsCutIt) {
  const std::string text =
      "corpus: 48 documents\n"
      R"({"stage":"capture","done":10,"total":100,"rows_per_s":5.5,"eta_s":16.4})"
      "\n"
      R"({"stage":"gate","done":0,"total":null,"rows_per_s":0.0,"eta_s":null,"loss":2.25})"
      "\n";
  for (const size_t piece : {size_t{1}, size_t{7}, text.size()}) {
    ChildMessages messages;
    int times = 0;
    for (size_t at = 0; at < text.size(); at += piece) times += messages.Feed(text.substr(at, piece)) ? 1 : 0;
    EXPECT_EQ(times, piece == text.size() ? 1 : 2);
    ASSERT_TRUE(messages.progress());
    EXPECT_EQ(ToJson(*messages.progress()).dump(),
              R"({"done":0,"eta_s":null,"loss":2.25,"rows_per_s":0.0,"stage":"gate","total":null})");
    EXPECT_EQ(messages.Reason(), "corpus: 48 documents");
  }
}

TEST(ChildMessagesTest, WhatOnlyLooksLikeProgressIsText) {
  for (const char* line : {"{", "{}", R"({"stage":"","done":1})", R"({"stage":"a"})", R"({"stage":"a","done":-1})",
                           R"({"stage":7,"done":1})", R"([{"stage":"a","done":1}])", R"({"stage":"a","done":1} x)"}) {
    ChildMessages messages;
    EXPECT_FALSE(messages.Feed(std::string(line) + "\n")) << line;
    EXPECT_FALSE(messages.progress()) << line;
  }
}

TEST(ChildMessagesTest, TheReasonIsTheCommandsOwnLastLine) {
  ChildMessages messages;
  EXPECT_EQ(messages.Reason(), "");
  messages.Feed("pointsman: first\npointsman: /data: no such folder\nwarning: a library's\nlast");
  EXPECT_EQ(messages.Reason(), "/data: no such folder");
  messages.Finish();
  EXPECT_TRUE(messages.Mentions("last"));
  EXPECT_FALSE(messages.Mentions("lasting"));
}

TEST(ChildMessagesTest, NothingGrowsWithoutBound) {
  ChildMessages messages;
  messages.Feed(R"({"stage":"a","done":1,"x":")" + std::string(1 << 20, 'x') + "\"}\n");
  EXPECT_FALSE(messages.progress());
  EXPECT_LE(messages.Reason().size(), 4096u);
  EXPECT_TRUE(messages.Feed(R"({"stage":"after","done":1})"
                            "\n"));
  for (int i = 0; i < 1000; ++i) messages.Feed("line " + std::to_string(i) + "\n");
  EXPECT_FALSE(messages.Mentions("line 900"));
  EXPECT_TRUE(messages.Mentions("line 999"));
}

}  // namespace
}  // namespace pointsman
