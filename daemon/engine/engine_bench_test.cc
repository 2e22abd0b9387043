#include "daemon/engine/engine_bench.h"

#include <gtest/gtest.h>

#include "daemon/engine/testing/requests.h"

namespace pointsman {
namespace {

TEST(EngineBench, ReportsEveryNumberOfClientsAndTheOverhead) {
  const auto model = testing::LoadTiny();
  EngineBenchSpec spec;
  spec.clients = {1, 3};
  spec.prompts = {testing::RandomPrompt(8, 1), testing::RandomPrompt(5, 2)};
  spec.new_tokens = 6;
  spec.rounds = 2;
  spec.tables = testing::RandomTables(24, 6, 3, testing::GateState::kOff);
  const auto report = BenchEngine(model, spec);
  ASSERT_TRUE(report.ok()) << report.error().message;
  ASSERT_EQ(report.value().runs.size(), 2u);
  for (const EngineBenchRun& run : report.value().runs) {
    EXPECT_GT(run.seconds, 0);
    EXPECT_NEAR(run.tokens_per_s, run.clients * 6 / run.seconds, 1e-6);
  }
  EXPECT_EQ(report.value().runs[1].clients, 3u);
  EXPECT_GT(report.value().generate_s, 0);
  EXPECT_GT(report.value().overhead, -1);

  spec.prompts = {{1, 2, 999}};
  const auto refused = BenchEngine(model, spec);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "the prompt has token 999 but the vocabulary has ids 0 to 262: use the model's tokenizer");
}

}  // namespace
}  // namespace pointsman
