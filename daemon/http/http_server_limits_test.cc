// Busy, slow and too many clients: who is refused, who is cut, and that the others do not notice. And the end.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "daemon/http/http_server.h"
#include "daemon/http/testing_server.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

using nlohmann::json;
using testing::Get;
using testing::Post;
using testing::RawClient;
using testing::RawResponse;
using testing::RunningServer;
using Clock = std::chrono::steady_clock;

TEST_F(RunningServer, WhoComesToABusyServerKnowsBeforeItsBodyIsSent) {
  Start();
  RawClient client(server_->port());
  const std::string body(200'000, 'x');
  const std::string request = Post("/busy", body);
  client.Send(request.substr(0, request.size() - body.size()));
  const RawResponse refused = client.Receive();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "3");
  EXPECT_FALSE(refused.headers.contains("connection"));
  // The connection goes on behind the body, which is dropped: one in pieces, one with the next requests behind it.
  client.Send(body.substr(0, 70'000));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  client.Send(body.substr(70'000) + request + Get("/healthz"));
  EXPECT_EQ(client.Receive().status, 503);
  EXPECT_EQ(client.Receive().body, R"({"status":"ok"})");
  busy_ = false;
  client.Send(request);
  EXPECT_EQ(client.Receive().body, "200000");
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(records_[0].refused, "limit");
}

TEST_F(RunningServer, ABusyServerClosesWhereTheNextRequestCannotBeFound) {
  HttpServerOptions options;
  options.limits.body_timeout_ms = 150;
  Start(options);
  const std::string head = "POST /busy HTTP/1.1\r\nHost: a\r\n";
  const std::string much(900'000, 'x');
  for (const std::string& bytes : {head + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
                                   head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Post("/busy", much)}) {
    RawClient client(server_->port());
    EXPECT_TRUE(client.Send(bytes));
    const RawResponse refused = client.Receive();  // whole, although more was sent than is read
    EXPECT_EQ(refused.status, 503);
    EXPECT_EQ(refused.headers.at("connection"), "close");
    EXPECT_TRUE(client.AtEnd());
  }
  // A body that is announced and does not come costs the client its connection, nobody else anything.
  RawClient silent(server_->port());
  silent.Send(head + "Content-Length: 5\r\n\r\nab");
  EXPECT_EQ(silent.Receive().status, 503);
  EXPECT_TRUE(silent.AtEnd());
  EXPECT_EQ(server_->stats().requests_in_flight, 0u);
}

TEST_F(RunningServer, SlowClientsAreToldAndCutAtEachDeadline) {
  HttpServerOptions options;
  options.limits.header_timeout_ms = 150;
  options.limits.body_timeout_ms = 150;
  options.limits.idle_timeout_ms = 300;
  Start(options);
  const auto start = Clock::now();
  RawClient header(server_->port()), body(server_->port()), idle(server_->port());
  header.Send("GET / HTTP/1.1\r\nHost: ");
  body.Send("POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  // Bytes that trickle in do not extend the deadline.
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    header.Send("x");
  }
  for (RawClient* late : {&header, &body}) {
    const RawResponse answer = late->Receive();
    EXPECT_EQ(answer.status, 408);
    EXPECT_EQ(answer.headers.at("connection"), "close");
    EXPECT_EQ(json::parse(answer.body)["error"]["code"], "request_timeout");
    EXPECT_TRUE(late->AtEnd());
  }
  EXPECT_TRUE(idle.AtEnd());
  EXPECT_LT(SecondsSince(start), 3);
  const std::lock_guard lock(mutex_);
  ASSERT_EQ(records_.size(), 2u);  // the idle one asked nothing
  for (const Record& record : records_) {
    EXPECT_EQ(record.status, 408);
    EXPECT_EQ(record.refused, "timeout");
  }
}

TEST_F(RunningServer, HundredsOfSlowClientsDoNotKeepAHealthyOneWaiting) {
  HttpServerOptions options;
  options.limits.header_timeout_ms = 1500;
  Start(options);
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 200; ++i) {
    slow.push_back(std::make_unique<RawClient>(server_->port()));
    slow.back()->Send("GET / HTTP/1.1\r\nX: ");
  }
  for (int i = 0; i < 50; ++i) {
    const auto start = Clock::now();
    ExpectHealthy();
    EXPECT_LT(SecondsSince(start), 0.5);
  }
  WaitUntil([&] { return server_->stats().connections <= 1; });
}

TEST_F(RunningServer, ConnectionsAndRequestsBeyondTheLimitAreRefusedAtOnce) {
  HttpServerOptions options;
  options.limits.connections = 4;
  options.limits.requests_in_flight = 2;
  Start(options);
  RawClient a(server_->port()), b(server_->port()), c(server_->port()), d(server_->port());
  a.Send(Get("/slow"));
  b.Send(Get("/slow"));
  WaitUntil([&] { return slow_running_ == 2; });
  const auto start = Clock::now();
  c.Send(Get("/slow"));
  const RawResponse busy = c.Receive();
  EXPECT_EQ(busy.status, 503);
  EXPECT_EQ(busy.headers.at("retry-after"), "1");
  d.Send(Get("/healthz"));  // public: answered even then
  EXPECT_EQ(d.Receive().status, 200);
  RawClient e(server_->port());
  const RawResponse full = e.Receive();
  EXPECT_EQ(full.status, 503);
  EXPECT_EQ(json::parse(full.body)["error"]["code"], "overloaded");
  EXPECT_LT(SecondsSince(start), 1);
  release_ = true;
  EXPECT_EQ(a.Receive().body, "slow");
  EXPECT_EQ(server_->stats().refused_connections, 1u);
}

TEST_F(RunningServer, OneAddressCannotTakeEveryConnection) {
  HttpServerOptions options;
  options.limits.connections_per_peer = 2;
  Start(options);
  RawClient a(server_->port()), b(server_->port());
  a.Send(Get("/healthz"));
  b.Send(Get("/healthz"));
  EXPECT_EQ(a.Receive().status, 200);
  EXPECT_EQ(b.Receive().status, 200);
  EXPECT_EQ(RawClient(server_->port()).Receive().status, 503);
  a.Close();
  WaitUntil([&] { return server_->stats().connections == 1; });
  ExpectHealthy();
}

TEST_F(RunningServer, AClientThatDoesNotReadIsCut) {
  HttpServerOptions options;
  options.limits.write_timeout_ms = 200;
  Start(options);
  RawClient client(server_->port());
  client.Send(Get("/flood"));
  WaitUntil([&] { return cancelled_ == 1; });
}

TEST_F(RunningServer, AHandlerThatIsLateIsToldToStop) {
  HttpServerOptions options;
  options.limits.handler_timeout_ms = 100;
  Start(options);
  const RawResponse late = Ask(Get("/slow"));
  EXPECT_EQ(late.status, 503);
  EXPECT_EQ(cancelled_, 1);
}

TEST_F(RunningServer, DrainFinishesWhatRunsAndTakesNothingNew) {
  Start();
  RawClient busy(server_->port()), idle(server_->port());
  idle.Send(Get("/healthz"));
  EXPECT_EQ(idle.Receive().status, 200);
  busy.Send(Get("/slow"));
  WaitUntil([&] { return slow_running_ == 1; });
  std::thread releases([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    release_ = true;
  });
  const auto start = Clock::now();
  EXPECT_TRUE(server_->Drain());
  EXPECT_GT(SecondsSince(start), 0.1);
  releases.join();
  const RawResponse finished = busy.Receive();
  EXPECT_EQ(finished.body, "slow");
  EXPECT_TRUE(idle.AtEnd());
  EXPECT_FALSE(RawClient(server_->port()).connected());
}

TEST_F(RunningServer, DrainEndsAtItsDeadline) {
  HttpServerOptions options;
  options.drain_timeout_ms = 100;
  Start(options);
  RawClient busy(server_->port());
  busy.Send(Get("/slow"));
  WaitUntil([&] { return slow_running_ == 1; });
  EXPECT_FALSE(server_->Drain());
  EXPECT_EQ(cancelled_, 1);
}

}  // namespace
}  // namespace pointsman
