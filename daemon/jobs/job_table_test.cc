#include "daemon/jobs/job_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pointsman {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

JobRecord Named(const std::string& id, const std::string& target = {}) {
  JobRecord job{.id = id, .kind = "build"};
  job.target = target;
  return job;
}

JobRecord Ended(const std::string& id, int64_t finished) {
  JobRecord job = Named(id);
  job.status = JobStatus::kSucceeded;
  job.finished = finished;
  return job;
}

void Submit(JobTable& table, JobRecord job) {
  ASSERT_TRUE(table.Reserve(job, /*only_one=*/false, /*room=*/100).ok());
  table.SetReady(job.id);
}

TEST(JobTableTest, AReservedJobIsNeitherShownNorStartedBeforeItIsReady) {
  JobTable table;
  JobRecord job = Named("a", "mem");
  ASSERT_TRUE(table.Reserve(job, false, 1).ok());
  EXPECT_EQ(job.sequence, 1u);
  EXPECT_EQ(table.Find("a").error().message, "job 'a': there is none; GET /v1/jobs lists them");
  EXPECT_TRUE(table.List().empty());
  EXPECT_FALSE(table.NextToStart({}).has_value());
  JobRecord second = Named("b", "mem");
  EXPECT_THAT(table.Reserve(second, false, 1).error().message, HasSubstr("1 jobs are running or queued"));
  EXPECT_THAT(table.Reserve(second, true, 9).error().message, HasSubstr("a writes there already"));
  table.SetReady("a");
  EXPECT_EQ(table.NextToStart({})->id, "a");
}

TEST(JobTableTest, TheOldestWhoseTargetIsFreeIsNext) {
  JobTable table;
  Submit(table, Named("z", "one"));
  Submit(table, Named("y", "one"));
  Submit(table, Named("x", "two"));
  EXPECT_EQ(table.NextToStart({})->id, "z");
  ASSERT_TRUE(table.ChangeIfQueued("z", [](JobRecord& job) { job.status = JobStatus::kRunning; }).has_value());
  EXPECT_FALSE(table.ChangeIfQueued("z", [](JobRecord&) { FAIL() << "it runs already"; }).has_value());
  EXPECT_EQ(table.NextToStart({"z"})->id, "x");
}

TEST(JobTableTest, CancellingAsksForgetsOrCancels) {
  JobTable table;
  Submit(table, Named("queued"));
  Submit(table, Named("running"));
  table.ChangeIfThere("running", [](JobRecord& job) { job.status = JobStatus::kRunning; });
  table.Restore(Ended("ended", 5));
  int told = 0;
  const uint64_t watch = table.Watch("queued", [&] { ++told; });
  EXPECT_EQ(table.Cancel("queued", 7).value().what, JobTable::Cancellation::kCancelled);
  EXPECT_EQ(table.Find("queued").value().finished, 7);
  EXPECT_EQ(table.Cancel("running", 7).value().what, JobTable::Cancellation::kAsked);
  EXPECT_TRUE(table.IsCancelRequested("running"));
  EXPECT_EQ(table.Cancel("ended", 7).value().what, JobTable::Cancellation::kForgotten);
  EXPECT_EQ(table.Cancel("ended", 7).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(told, 1);
  table.Unwatch(watch);
  table.Tell("queued");
  EXPECT_EQ(told, 1);
}

TEST(JobTableTest, WhatEndedFirstIsForgottenFirst) {
  JobTable table;
  table.Restore(Ended("late", 9));
  table.Restore(Ended("early", 2));
  Submit(table, Named("queued"));
  EXPECT_EQ(table.ForgetOldest(1), "early");
  EXPECT_EQ(table.ForgetOldest(1), std::nullopt);
  std::vector<std::string> left;
  for (const JobRecord& job : table.List()) left.push_back(job.id);
  EXPECT_THAT(left, ElementsAre("queued", "late"));
}

}  // namespace
}  // namespace pointsman
