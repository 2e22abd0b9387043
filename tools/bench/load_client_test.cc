// The client against a real server: what it counts when answers are late, refused or missing, and when it cannot send
// as fast as it was told to.
#include "tools/bench/load_client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <memory>

#include "daemon/http/http_server.h"

namespace pointsman {
namespace {

// A server whose one route takes `delay_ms` for an answer, and answers every `refuse_every`th request with 503.
class LoadedServer : public ::testing::Test {
 protected:
  void Start(int delay_ms, uint32_t refuse_every = 0) {
    PathRouter router;
    router.Add({.method = "POST",
                .pattern = "/work",
                .access = Access::kPublic,
                .handler = [this, delay_ms, refuse_every](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  const uint32_t number = ++asked_;
                  if (delay_ms > 0) {
                    boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
                    timer.expires_after(std::chrono::milliseconds(delay_ms));
                    co_await timer.async_wait(boost::asio::use_awaitable);
                  }
                  if (refuse_every > 0 && number % refuse_every == 0) {
                    const ApiError busy{ApiCode::kOverloaded, "busy"};
                    co_return ErrorResponse(busy);
                  }
                  co_return HttpResponse{.body = "{}"};
                }});
    HttpServerOptions options;
    options.port = 0;
    HttpHooks hooks;
    hooks.authenticate = [](const HttpRequest&) -> Result<Principal> { return Principal{}; };
    auto server = HttpServer::Start(options, std::move(router), std::move(hooks));
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
  }
  LoadResult Run(LoadPlan plan) {
    plan.port = server_->port();
    plan.target = "/work";
    plan.body = "{}";
    auto result = RunLoad(plan);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? std::move(result).value() : LoadResult();
  }

  std::atomic<uint32_t> asked_{0};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(LoadedServer, EveryRequestOfTheWindowIsCounted) {
  Start(0, 4);
  const LoadResult result = Run({.connections = 2, .rate = 200, .seconds = 0.5, .warmup_s = 0.1});
  EXPECT_EQ(result.due, 100u);
  EXPECT_EQ(result.sent, result.accepted + result.refused + result.failed);
  EXPECT_EQ(result.accepted_ms.size(), result.accepted);
  EXPECT_EQ(result.refused_ms.size(), result.refused);
  EXPECT_EQ(result.failed, 0u);
  EXPECT_GT(result.refused, 0u);
  EXPECT_GT(result.accepted, result.refused);
  EXPECT_EQ(result.window_s, 0.5);
}

// Each answer comes after the window's end: it is counted nevertheless, and the rate is over the time that it took.
TEST_F(LoadedServer, AnswersAfterTheWindowCount) {
  Start(400);
  const LoadResult result = Run({.connections = 4, .rate = 20, .seconds = 0.2, .warmup_s = 0});
  EXPECT_EQ(result.due, 4u);
  EXPECT_GE(result.sent, 1u);  // all four, but on a machine that stalls for longer than kMostLag_ms
  EXPECT_EQ(result.accepted, result.sent);
  EXPECT_GE(result.accepted_ms.front(), 399);
  EXPECT_GE(result.seconds, 0.4);
  EXPECT_NEAR(result.requests_per_s(), 4 / result.seconds, 1e-9);
  const LoadResult closed = Run({.connections = 3, .seconds = 0.2, .warmup_s = 0});
  EXPECT_EQ(closed.accepted, 3u);
  EXPECT_EQ(closed.seconds, 0.2);
}

// Four connections that wait 150 ms for each answer cannot send 2,000 a second: the rest is neither sent nor failed,
// and the backlog of the warm-up is not what the window measures.
TEST_F(LoadedServer, AClientThatCannotKeepTheRateSaysSo) {
  Start(150);
  const LoadResult result = Run({.connections = 4, .rate = 2000, .seconds = 0.5, .warmup_s = 0.5});
  EXPECT_EQ(result.due, 1000u);
  EXPECT_GE(result.sent, 4u);
  EXPECT_LE(result.sent, 16u);
  EXPECT_EQ(result.accepted, result.sent);
  EXPECT_EQ(result.failed, 0u);
  EXPECT_GT(result.lag_ms.back(), 50);
  EXPECT_GT(result.accepted_ms.front(), 149);
}

TEST_F(LoadedServer, WhatIsUnansweredAfterTheGraceHasFailed) {
  Start(60'000);
  LoadPlan plan{.port = server_->port(),
                .target = "/work",
                .body = "{}",
                .connections = 2,
                .seconds = 0.1,
                .warmup_s = 0,
                .grace_s = 0.2};
  const auto begun = std::chrono::steady_clock::now();
  const auto result = RunLoad(plan);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kIo);
  EXPECT_NE(result.error().message.find("of 2 requests in 0.1 s 2 were sent"), std::string::npos)
      << result.error().message;
}

TEST(LoadClientTest, QuantilesAreOfTheValuesThemselves) {
  EXPECT_EQ(Quantile({}, 0.5), 0);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 0.5), 2);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 0.99), 4);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 0), 1);
}

}  // namespace
}  // namespace pointsman
