#include "daemon/http/http_server.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "daemon/http/testing_client.h"

namespace pointsman {
namespace {

using nlohmann::json;
using testing::RawClient;
using testing::RawResponse;
using Clock = std::chrono::steady_clock;

std::string Get(const std::string& target, const std::string& fields = {}) {
  return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n";
}
std::string Post(const std::string& target, const std::string& body, const std::string& fields = {}) {
  return "POST " + target + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         fields + "\r\n" + body;
}
double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A server with an echo, a slow handler, streams, and one route for each access.
class RunningServer : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.port = 0;
    PathRouter router;
    router.Add({"GET", "/healthz", Access::kPublic, [](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  co_return HttpResponse{.body = R"({"status":"ok"})"};
                }});
    router.Add(
        {"POST", "/echo/{name}", Access::kRead, [](const HttpRequest& r) -> boost::asio::awaitable<HttpResponse> {
           co_return HttpResponse{.body = json{{"name", r.parameters.at("name")},
                                               {"body", r.body},
                                               {"query", r.query},
                                               {"who", r.principal.name},
                                               {"peer", r.peer}}
                                              .dump(-1, ' ', false, json::error_handler_t::replace)};
         }});
    router.Add({.method = "POST",
                .pattern = "/small",
                .access = Access::kRead,
                .handler = [](const HttpRequest& r) -> boost::asio::awaitable<HttpResponse> {
                  co_return HttpResponse{.body = std::to_string(r.body.size())};
                },
                .max_body_bytes = 10});
    router.Add({.method = "POST",
                .pattern = "/busy",
                .access = Access::kRead,
                .handler = [](const HttpRequest& r) -> boost::asio::awaitable<HttpResponse> {
                  co_return HttpResponse{.body = std::to_string(r.body.size())};
                },
                .refuses = [this](const HttpRequest&) -> std::optional<ApiError> {
                  if (!busy_) return std::nullopt;
                  return ApiError{ApiCode::kOverloaded, "busy", {}, 3};
                }});
    router.Add({"GET", "/slow", Access::kRead, [this](const HttpRequest& r) -> boost::asio::awaitable<HttpResponse> {
                  r.cancelled->OnRequest([this] { ++cancelled_; });
                  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
                  ++slow_running_;
                  for (int i = 0; i < 400 && !r.cancelled->requested() && !release_; ++i) {
                    timer.expires_after(std::chrono::milliseconds(5));
                    co_await timer.async_wait(boost::asio::use_awaitable);
                  }
                  --slow_running_;
                  co_return HttpResponse{.body = "slow"};
                }});
    router.Add({"GET", "/stream", Access::kRead, [](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  HttpResponse response{.content_type = "text/event-stream"};
                  response.stream = [](HttpStream& out) -> boost::asio::awaitable<void> {
                    for (int i = 0; i < 3; ++i) co_await out.Write("data: " + std::to_string(i) + "\n\n");
                  };
                  co_return response;
                }});
    router.Add({"GET", "/flood", Access::kRead, [this](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  HttpResponse response{.content_type = "text/plain"};
                  response.stream = [this](HttpStream& out) -> boost::asio::awaitable<void> {
                    const std::string piece(1 << 16, 'x');
                    for (int i = 0; i < 4000; ++i) {
                      if (!co_await out.Write(piece)) co_return void(++cancelled_);
                    }
                  };
                  co_return response;
                }});
    router.Add({"GET", "/throws", Access::kRead, [](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  throw std::runtime_error("a defect at /secret/path");
                  co_return HttpResponse{};
                }});
    router.Add({"GET", "/breaks", Access::kRead, [](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  HttpResponse response;
                  response.stream = [](HttpStream& out) -> boost::asio::awaitable<void> {
                    co_await out.Write("begun");
                    throw std::runtime_error("late");
                  };
                  co_return response;
                }});
    router.Add(
        {"DELETE", "/everything", Access::kAdmin, [](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
           co_return HttpResponse{.status = 200, .body = "{}"};
         }});
    HttpHooks hooks;
    hooks.authenticate = [](const HttpRequest& request) -> Result<Principal> {
      const std::string_view given = request.Header("authorization");
      Principal who;
      who.name = "reader";
      who.access = Access::kRead;
      if (given == "Bearer admin") who.access = Access::kAdmin;
      if (given == "Bearer wrong") return Error{ErrorCode::kInvalidArgument, "a valid API key is needed"};
      return who;
    };
    hooks.on_finished = [this](const HttpRecord& record) {
      const std::lock_guard lock(mutex_);
      records_.push_back({record.status, std::string(record.refused), record.request ? record.request->route : ""});
    };
    hooks.on_defect = [this](const HttpRequest&, const std::string&) { ++defects_; };
    auto server = HttpServer::Start(std::move(options), std::move(router), std::move(hooks));
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
  }
  void TearDown() override {
    release_ = true;
    server_.reset();
  }

  RawResponse Ask(const std::string& bytes) {
    RawClient client(server_->port());
    client.Send(bytes);
    return client.Receive();
  }
  void ExpectHealthy() { EXPECT_EQ(Ask(Get("/healthz")).status, 200); }
  static void WaitUntil(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_TRUE(condition());
  }

  struct Record {
    int status;
    std::string refused, route;
  };
  std::mutex mutex_;
  std::vector<Record> records_;
  std::atomic<int> cancelled_{0}, slow_running_{0}, defects_{0};
  std::atomic<bool> release_{false}, busy_{true};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(RunningServer, AnswersWithTheFieldsThatClientsExpect) {
  Start();
  RawClient client(server_->port());
  client.Send(Post("/echo/a%20b?k=v", "hello", "X-Request-Id: my-id.1\r\n"));
  const RawResponse answer = client.Receive();
  EXPECT_EQ(answer.status, 200);
  const json body = json::parse(answer.body);
  EXPECT_EQ(body["name"], "a b");
  EXPECT_EQ(body["body"], "hello");
  EXPECT_EQ(body["query"]["k"], "v");
  EXPECT_EQ(body["who"], "reader");
  EXPECT_EQ(body["peer"], "127.0.0.1");
  EXPECT_EQ(answer.headers.at("x-request-id"), "my-id.1");
  EXPECT_EQ(answer.headers.at("content-type"), "application/json");
  EXPECT_EQ(answer.headers.at("server"), "pointsman");
  EXPECT_TRUE(answer.headers.at("date").ends_with(" GMT"));
  EXPECT_FALSE(answer.headers.contains("access-control-allow-origin"));
  // An id that could forge a header or a log line is replaced.
  client.Send(Get("/healthz", "X-Request-Id: a b\r\n"));
  EXPECT_EQ(client.Receive().headers.at("x-request-id").size(), 16u);
}

TEST_F(RunningServer, KeepsConnectionsAndAnswersPipelinedRequestsInOrder) {
  Start();
  RawClient client(server_->port());
  std::string all;
  for (int i = 0; i < 20; ++i) all += Post("/echo/" + std::to_string(i), std::string(i * 1000, 'x'));
  client.Send(all);
  for (int i = 0; i < 20; ++i) {
    const RawResponse answer = client.Receive();
    ASSERT_EQ(answer.status, 200) << i;
    EXPECT_EQ(json::parse(answer.body)["name"], std::to_string(i));
  }
  client.Send(Get("/healthz", "Connection: close\r\n"));
  EXPECT_EQ(client.Receive().headers.at("connection"), "close");
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(RunningServer, ChunkedBodiesAndExpectationsAreRead) {
  Start();
  RawClient client(server_->port());
  client.Send("POST /echo/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_EQ(json::parse(client.Receive().body)["body"], "abcde");
  client.Send("POST /echo/e HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  client.Send("ok");
  EXPECT_EQ(json::parse(client.Receive().body)["body"], "ok");
  for (const char* bad : {"z\r\nabc\r\n", "-1\r\n", "ffffffffffffffff1\r\n", "3\r\nabcd\r\n0\r\n\r\n"}) {
    EXPECT_EQ(Ask(std::string("POST /echo/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") + bad).status,
              400)
        << bad;
  }
  ExpectHealthy();
}

TEST_F(RunningServer, HeadHasTheLengthAndNoBody) {
  Start();
  RawClient client(server_->port());
  client.Send("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + Get("/healthz"));
  const RawResponse head = client.Receive(5000, /*head=*/true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "15");
  EXPECT_EQ(client.Receive().body, R"({"status":"ok"})");
}

TEST_F(RunningServer, StreamsInChunksOrUntilTheConnectionEnds) {
  Start();
  RawClient client(server_->port());
  client.Send(Get("/stream") + Get("/healthz"));
  const RawResponse answer = client.Receive();
  EXPECT_EQ(answer.headers.at("transfer-encoding"), "chunked");
  EXPECT_EQ(answer.body, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
  EXPECT_EQ(client.Receive().status, 200);
  const RawResponse old = Ask("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_FALSE(old.headers.contains("transfer-encoding"));
  EXPECT_EQ(old.body, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
}

TEST_F(RunningServer, RefusalsAreOpenAisErrorsAndCloseWhereFramingIsInDoubt) {
  Start();
  const auto code = [&](const std::string& bytes) { return json::parse(Ask(bytes).body)["error"]["code"]; };
  EXPECT_EQ(code(Get("/nothing")), "not_found");
  EXPECT_EQ(code("GET /x HTTP/1.1\r\n\r\n"), "invalid_request");
  EXPECT_EQ(code(Get("/everything", "Authorization: Bearer wrong\r\n")), "method_not_allowed");
  EXPECT_EQ(code("DELETE /everything HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\n\r\n"), "invalid_api_key");
  EXPECT_EQ(code("DELETE /everything HTTP/1.1\r\nHost: a\r\n\r\n"), "insufficient_permissions");
  EXPECT_EQ(Ask("DELETE /everything HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer admin\r\n\r\n").status, 200);
  EXPECT_EQ(Ask(Get("/echo/a")).headers.at("allow"), "POST");
  // A wrong path with a good frame keeps the connection, a bad frame does not.
  RawClient client(server_->port());
  client.Send(Get("/nothing") + Get("/healthz"));
  EXPECT_EQ(client.Receive().status, 404);
  EXPECT_EQ(client.Receive().status, 200);
  client.Send("POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc" +
              Get("/healthz"));
  EXPECT_EQ(client.Receive().status, 400);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(RunningServer, NobodyIsMadeToReadWhatWillBeRefused) {
  HttpServerOptions options;
  options.limits.body_bytes = 1000;
  Start(options);
  // No body follows: the answer comes without waiting for it.
  EXPECT_EQ(Ask("POST /echo/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").status, 413);
  EXPECT_EQ(Ask("POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n").status, 413);
  EXPECT_EQ(
      Ask("POST /echo/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\nContent-Length: 900\r\n\r\n").status,
      401);
  EXPECT_EQ(Ask(Post("/small", "0123456789")).body, "10");
  std::string chunks = "POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 6; ++i) chunks += "2\r\nab\r\n";
  EXPECT_EQ(Ask(chunks + "0\r\n\r\n").status, 413);
  EXPECT_EQ(Ask(Get("/healthz", "A: " + std::string(20'000, 'x') + "\r\n")).status, 431);
  EXPECT_EQ(Ask(Get("/" + std::string(20'000, 'x'))).status, 414);
  EXPECT_EQ(Ask("GET / HTTP/1.1\nHost: a\n\n").status, 400);
}

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

TEST_F(RunningServer, AClientThatGoesAwayCancelsItsRequest) {
  Start();
  RawClient client(server_->port());
  client.Send(Get("/slow"));
  WaitUntil([&] { return slow_running_ == 1; });
  client.Close();
  WaitUntil([&] { return cancelled_ == 1 && slow_running_ == 0; });
  // One that only sends its next request early does not.
  RawClient eager(server_->port());
  eager.Send(Get("/slow") + Get("/healthz"));
  WaitUntil([&] { return slow_running_ == 1; });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(cancelled_, 1);
  release_ = true;
  EXPECT_EQ(eager.Receive().body, "slow");
  EXPECT_EQ(eager.Receive().status, 200);
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

TEST_F(RunningServer, ADefectIsA500WithoutItsText) {
  Start();
  const RawResponse answer = Ask(Get("/throws"));
  EXPECT_EQ(answer.status, 500);
  EXPECT_EQ(answer.body.find("secret"), std::string::npos);
  EXPECT_EQ(defects_, 1);
  RawClient client(server_->port());
  client.Send(Get("/breaks"));
  EXPECT_EQ(client.Receive(2000).body, "begun");
  EXPECT_TRUE(client.truncated());
  ExpectHealthy();
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

TEST_F(RunningServer, ListensOnAUnixSocketAndReplacesAStaleOne) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "pm_test.sock";
  std::filesystem::remove(path);
  HttpServerOptions options;
  options.address = "";
  options.unix_socket = path;
  Start(options);
  RawClient client(path);
  client.Send(Post("/echo/u", "x"));
  EXPECT_EQ(json::parse(client.Receive().body)["peer"], "unix");
  struct stat status {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0660u);
  HttpHooks hooks;
  hooks.authenticate = [](const HttpRequest&) -> Result<Principal> { return Principal{}; };
  const auto second = HttpServer::Start(options, {}, hooks);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  client.Close();
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(path));
  // Left over from a killed server: a socket file that nobody listens on.
  const int handle = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(handle, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(handle);
  Start(options);
  std::ofstream(path.string() + ".txt") << "x";
  options.unix_socket = path.string() + ".txt";
  EXPECT_FALSE(HttpServer::Start(options, {}, hooks).ok());
}

TEST(HttpServerStartTest, SaysWhatIsWrong) {
  HttpHooks hooks;
  hooks.authenticate = [](const HttpRequest&) -> Result<Principal> { return Principal{}; };
  const auto error = [&](HttpServerOptions options) {
    return HttpServer::Start(std::move(options), {}, hooks).error();
  };
  HttpServerOptions options;
  options.address = "localhost";
  EXPECT_NE(error(options).message.find("not an IP address"), std::string::npos);
  options = {};
  options.port = 0;
  auto first = HttpServer::Start(options, {}, hooks);
  ASSERT_TRUE(first.ok());
  options.port = first.value()->port();
  EXPECT_EQ(error(options).code, ErrorCode::kBusy);
  options.tls_certificate = "/nowhere.pem";
  EXPECT_NE(error(options).message.find("both a certificate and its key"), std::string::npos);
  options.tls_key = "/nowhere.key";
  EXPECT_NE(error(options).message.find("/nowhere.pem: not a PEM certificate"), std::string::npos);
}

// Good requests with random bytes changed, dropped, doubled or cut. POINTSMAN_FUZZ_REQUESTS makes it longer.
TEST_F(RunningServer, MutatedRequestsGetAWellFormedAnswerOrNone) {
  HttpServerOptions options;
  options.limits.header_timeout_ms = 50;
  options.limits.body_timeout_ms = 50;
  options.limits.idle_timeout_ms = 200;
  Start(options);
  const std::vector<std::string> good = {
      Get("/healthz"),
      Post("/echo/a?k=v&l=w", R"({"a": [1, 2, {"b": "c"}]})", "Content-Type: application/json\r\n"),
      "POST /echo/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
      "HEAD /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
      Get("/stream") + Get("/healthz"),
      "POST /small HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok"};
  const char* count = std::getenv("POINTSMAN_FUZZ_REQUESTS");
  const int requests = count ? std::atoi(count) : 2000;
  std::mt19937 random(7);
  const auto below = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  int answered = 0;
  for (int i = 0; i < requests; ++i) {
    std::string bytes = good[below(good.size())];
    for (size_t changes = 1 + below(4); changes > 0 && !bytes.empty(); --changes) {
      const size_t at = below(bytes.size());
      switch (below(5)) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + below(8));
          break;
        case 2:
          bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(40)));
          break;
        case 3:
          bytes.insert(at, 1, "\r\n:\0 %"[below(6)]);
          break;
        default:
          bytes.resize(at);
      }
    }
    RawClient client(server_->port());
    ASSERT_TRUE(client.connected());
    client.Send(bytes);
    shutdown(client.handle(), SHUT_WR);  // whatever is missing does not come
    const RawResponse answer = client.Receive(2000, /*head=*/true);
    if (answer.status == 0) continue;
    ++answered;
    EXPECT_TRUE(answer.status >= 200 && answer.status < 600 && answer.status != 500) << answer.status << "\n" << bytes;
  }
  EXPECT_GT(answered, requests / 2);
  EXPECT_EQ(defects_, 0);
  ExpectHealthy();
  WaitUntil([&] { return server_->stats().requests_in_flight == 0; });
}

}  // namespace
}  // namespace pointsman
