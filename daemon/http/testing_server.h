// A fixture for tests: a server with routes of every kind, and the requests that are sent to it as bytes.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/http/http_server.h"
#include "daemon/http/testing_client.h"

namespace pointsman::testing {

inline std::string Get(const std::string& target, const std::string& fields = {}) {
  return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n";
}
inline std::string Post(const std::string& target, const std::string& body, const std::string& fields = {}) {
  return "POST " + target + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         fields + "\r\n" + body;
}

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
           co_return HttpResponse{.body = nlohmann::json{{"name", r.parameters.at("name")},
                                                         {"body", r.body},
                                                         {"query", r.query},
                                                         {"who", r.principal.name},
                                                         {"peer", r.peer}}
                                              .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
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
    router.Add({"GET", "/throws", Access::kRead, [this](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  defect_();
                  co_return HttpResponse{};
                }});
    router.Add({"GET", "/breaks", Access::kRead, [this](const HttpRequest&) -> boost::asio::awaitable<HttpResponse> {
                  HttpResponse response;
                  response.stream = [this](HttpStream& out) -> boost::asio::awaitable<void> {
                    co_await out.Write("begun");
                    defect_();
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
  std::function<void()> defect_;  // what /throws does, and /breaks after its first bytes
  std::mutex mutex_;
  std::vector<Record> records_;
  std::atomic<int> cancelled_{0}, slow_running_{0}, defects_{0};
  std::atomic<bool> release_{false}, busy_{true};
  std::unique_ptr<HttpServer> server_;
};

}  // namespace pointsman::testing
