#include "indexer/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <thread>
#include <vector>

namespace pointsman {
namespace {

using testing::HasSubstr;

// A stream to read back and a clock to turn by hand.
class CapturedProgress : public testing::Test {
 protected:
  CapturedProgress() : stream_(std::tmpfile()) {}
  ~CapturedProgress() override { std::fclose(stream_); }

  ProgressOptions Options(ProgressStyle style, bool quiet = false) {
    return {.quiet = quiet, .style = style, .stream = stream_, .seconds = [this] { return now_s_; }};
  }
  std::string Output() {
    std::fflush(stream_);
    std::string text(static_cast<size_t>(std::ftell(stream_)), '\0');
    std::rewind(stream_);
    EXPECT_EQ(std::fread(text.data(), 1, text.size(), stream_), text.size());
    return text;
  }

  std::FILE* stream_;
  double now_s_ = 100;
};

TEST_F(CapturedProgress, PlainLinesEveryTenSecondsAndASummary) {
  Progress progress("capture", 1000, "rows", Options(ProgressStyle::kLines));
  for (int i = 0; i < 25; ++i) {
    now_s_ += 1;
    progress.Advance(10);
  }
  progress.Finish("4 layers");
  EXPECT_EQ(Output(),
            "capture: 10% (100 of 1,000 rows), 10.0/s, 1 min 30 s left\n"
            "capture: 20% (200 of 1,000 rows), 10.0/s, 1 min 20 s left\n"
            "capture: 250 rows in 25.0 s (10.0 rows/s), 4 layers\n");
}

TEST_F(CapturedProgress, ABarRedrawsItsOwnLine) {
  Progress progress("train", 4, "steps", Options(ProgressStyle::kBar));
  now_s_ += 0.05;
  progress.Advance();  // too soon to draw
  now_s_ += 0.95;
  progress.Advance();
  progress.Finish();
  const std::string output = Output();
  EXPECT_EQ(output.substr(0, output.find('\n')),
            "\rtrain: [############............] 50% (2 of 4 steps), 2.0/s, 1.0 s left\x1b[K"
            "\rtrain: 2 steps in 1.0 s (2.0 steps/s)\x1b[K");
}

TEST_F(CapturedProgress, ResumedWorkIsNoSpeed) {
  Progress progress("build", 100, "shards", Options(ProgressStyle::kLines));
  progress.Skip(50);
  now_s_ += 10;
  progress.Advance(10);
  progress.Finish();
  const std::string output = Output();
  EXPECT_THAT(output, HasSubstr("60% (60 of 100 shards), 1.0/s, 40.0 s left"));
  EXPECT_THAT(output, HasSubstr("50 done before"));
}

TEST_F(CapturedProgress, UnknownTotalHasNoPercentage) {
  Progress progress("read", 0, "files", Options(ProgressStyle::kLines));
  now_s_ += 10;
  progress.Advance(5000);
  progress.Finish();
  EXPECT_THAT(Output(), HasSubstr("read: 5,000 files, 500/s\n"));
}

TEST_F(CapturedProgress, AStageThatCountsNothingSaysHowLongItTook) {
  Progress progress("knn", 0, "", Options(ProgressStyle::kLines));
  now_s_ += 75;
  progress.Finish("best epoch 3");
  EXPECT_EQ(Output(), "knn: done in 1 min 15 s, best epoch 3\n");
}

TEST_F(CapturedProgress, QuietWritesNothingAndDestructionFinishesOnce) {
  { Progress quiet("a", 1, "rows", Options(ProgressStyle::kLines, true)); }
  EXPECT_EQ(Output(), "");
  {
    Progress progress("b", 1, "rows", Options(ProgressStyle::kLines));
    progress.Advance();
    progress.Finish();
  }
  EXPECT_EQ(Output(), "b: 1 rows in 0.0 s\n");
}

TEST_F(CapturedProgress, JsonLinesForPrograms) {
  {
    Progress progress("train \"x\"", 100, "tokens", Options(ProgressStyle::kJson));
    now_s_ += 0.4;
    progress.Advance(10);  // too soon
    now_s_ += 0.6;
    progress.Advance(10);
    progress.NoteLoss(2.5);
    now_s_ += 4;
    progress.Advance(80);
  }
  EXPECT_EQ(Output(), R"({"stage":"train \"x\"","done":0,"total":100,"rows_per_s":0.0,"eta_s":null})"
                      "\n"
                      R"({"stage":"train \"x\"","done":20,"total":100,"rows_per_s":20.0,"eta_s":4.0})"
                      "\n"
                      R"({"stage":"train \"x\"","done":20,"total":100,"rows_per_s":20.0,"eta_s":4.0,"loss":2.5})"
                      "\n"
                      R"({"stage":"train \"x\"","done":100,"total":100,"rows_per_s":20.0,"eta_s":0.0,"loss":2.5})"
                      "\n"
                      R"({"stage":"train \"x\"","done":100,"total":100,"rows_per_s":20.0,"eta_s":0.0,"loss":2.5})"
                      "\n");
}

TEST_F(CapturedProgress, StagesThatCountNothingAreAnnouncedToProgramsOnly) {
  AnnounceStage("gate", Options(ProgressStyle::kLines));
  AnnounceStage("gate", Options(ProgressStyle::kJson, /*quiet=*/true));
  EXPECT_EQ(Output(), "");
  AnnounceStage("gate", Options(ProgressStyle::kJson));
  EXPECT_EQ(Output(), R"({"stage":"gate","done":0,"total":null,"rows_per_s":0.0,"eta_s":null})"
                      "\n");
}

TEST_F(CapturedProgress, CountsFromManyThreads) {
  Progress progress("threads", 40000, "rows", Options(ProgressStyle::kLines));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&progress] {
      for (int i = 0; i < 10000; ++i) progress.Advance();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(progress.done(), 40000u);
}

TEST(FormatTest, DurationsAndCounts) {
  EXPECT_EQ(FormatDuration(3.24), "3.2 s");
  EXPECT_EQ(FormatDuration(59.99), "1 min 00 s");
  EXPECT_EQ(FormatDuration(250), "4 min 10 s");
  EXPECT_EQ(FormatDuration(7500), "2 h 05 min");
  EXPECT_EQ(FormatDuration(-1), "0.0 s");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
}

}  // namespace
}  // namespace pointsman
