#include "daemon/http/http_server.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <thread>

#include "daemon/http/testing_server.h"

namespace pointsman {
namespace {

using nlohmann::json;
using testing::Get;
using testing::Post;
using testing::RawClient;
using testing::RawResponse;
using testing::RunningServer;

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

TEST_F(RunningServer, ADefectIsA500WithoutItsText) {
  defect_ = [] { throw std::runtime_error("a defect at /secret/path"); };
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
