#include "tools/bench/load_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <cmath>
#include <utility>

namespace pointsman {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using asio::ip::tcp;

double Milliseconds(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

class Load {
 public:
  explicit Load(const LoadPlan& plan) : plan_(plan) {
    request_ = fmt::format("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
                           plan.target, plan.content_type, plan.body.size());
    request_ += plan.body;
  }

  LoadResult Run() {
    begin_ = Clock::now();
    counted_ = begin_ + Span(plan_.warmup_s);
    end_ = counted_ + Span(plan_.seconds);
    for (uint32_t i = 0; i < plan_.connections; ++i) asio::co_spawn(context_, Connection(), asio::detached);
    context_.run();
    result_.seconds = plan_.seconds;
    std::ranges::sort(result_.accepted_ms);
    std::ranges::sort(result_.refused_ms);
    return std::move(result_);
  }

 private:
  static Clock::duration Span(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  asio::awaitable<void> Connection() {
    tcp::socket socket(context_);
    boost::beast::flat_buffer buffer;
    for (;;) {
      Clock::time_point due = Clock::now();
      if (plan_.rate > 0) {
        due = begin_ + Span(static_cast<double>(next_++) / plan_.rate);
        asio::steady_timer timer(context_, due);
        boost::system::error_code ignored;
        if (due > Clock::now()) co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      }
      if (due >= end_) co_return;
      co_await Ask(socket, buffer, due);
    }
  }

  asio::awaitable<void> Ask(tcp::socket& socket, boost::beast::flat_buffer& buffer, Clock::time_point due) {
    boost::system::error_code error;
    auto caught = asio::redirect_error(asio::use_awaitable, error);
    if (!socket.is_open()) {
      buffer.clear();
      co_await socket.async_connect({asio::ip::address_v4::loopback(), plan_.port}, caught);
      if (!error) socket.set_option(tcp::no_delay(true), error);
    }
    http::response<http::string_body> response;
    if (!error) co_await asio::async_write(socket, asio::buffer(request_), caught);
    // A refusal may come, and the connection end, before all is sent: the answer is still there to read.
    boost::system::error_code read_error;
    co_await http::async_read(socket, buffer, response, asio::redirect_error(asio::use_awaitable, read_error));
    Count(read_error ? 0 : static_cast<int>(response.result_int()), due, response.body());
    if (error || read_error || !response.keep_alive()) socket.close(error);
  }

  void Count(int status, Clock::time_point due, std::string& body) {
    const auto now = Clock::now();
    if (due < counted_ || now > end_) return;
    if (status == 200) {
      ++result_.accepted;
      result_.accepted_ms.push_back(Milliseconds(now - due));
      if (plan_.keep_bodies) result_.bodies.push_back(std::move(body));
    } else if (status == 503 || status == 429) {
      ++result_.refused;
      result_.refused_ms.push_back(Milliseconds(now - due));
    } else {
      ++result_.failed;
    }
  }

  const LoadPlan& plan_;
  std::string request_;
  asio::io_context context_{1};
  Clock::time_point begin_, counted_, end_;
  uint64_t next_ = 0;  // requests that have their time
  LoadResult result_;
};

}  // namespace

double Quantile(const std::vector<double>& ascending, double q) {
  if (ascending.empty()) return 0;
  const auto at = static_cast<size_t>(std::ceil(q * static_cast<double>(ascending.size())));
  return ascending[std::min(ascending.size() - 1, at == 0 ? 0 : at - 1)];
}

Result<LoadResult> RunLoad(const LoadPlan& plan) {
  try {
    LoadResult result = Load(plan).Run();
    if (result.accepted + result.refused == 0) {
      return Error{ErrorCode::kIo,
                   fmt::format("port {}: no answer to {} in {} s", plan.port, plan.target, plan.seconds)};
    }
    return result;
  } catch (const std::exception& error) {  // Asio's, where it has no error code to give
    return Error{ErrorCode::kIo, fmt::format("port {}: {}", plan.port, error.what())};
  }
}

}  // namespace pointsman
