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
#include <deque>
#include <optional>
#include <utility>

namespace pointsman {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using asio::ip::tcp;

double Milliseconds(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

Clock::duration Span(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

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
    end_ = last_answer_ = counted_ + Span(plan_.seconds);
    for (uint32_t i = 0; i < plan_.connections; ++i) sockets_.emplace_back(context_);
    open_ = plan_.connections;
    for (tcp::socket& socket : sockets_) asio::co_spawn(context_, Connection(socket), asio::detached);
    patience_.expires_at(end_ + Span(plan_.grace_s));
    patience_.async_wait([this](const boost::system::error_code& cancelled) {
      boost::system::error_code ignored;
      if (cancelled) return;
      for (tcp::socket& socket : sockets_) socket.close(ignored);
    });
    context_.run();
    result_.sent = result_.accepted + result_.refused + result_.failed;
    result_.window_s = plan_.seconds;
    result_.seconds = std::chrono::duration<double>(last_answer_ - counted_).count();
    for (auto* values : {&result_.accepted_ms, &result_.refused_ms, &result_.lag_ms}) std::ranges::sort(*values);
    return std::move(result_);
  }

 private:
  asio::awaitable<void> Connection(tcp::socket& socket) {
    boost::beast::flat_buffer buffer;
    asio::steady_timer timer(context_);
    while (const auto due = NextDue()) {
      if (*due > Clock::now()) {
        timer.expires_at(*due);
        boost::system::error_code ignored;
        co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      }
      co_await Ask(socket, buffer, *due);
    }
    if (--open_ == 0) patience_.cancel();
  }

  // When the next request is to leave; none after the window.
  std::optional<Clock::time_point> NextDue() {
    for (;;) {
      const Clock::time_point now = Clock::now();
      const Clock::time_point due = plan_.rate > 0 ? begin_ + Span(static_cast<double>(next_) / plan_.rate) : now;
      if (due >= end_) return std::nullopt;
      ++next_;
      if (due >= counted_) ++result_.due;
      if (Milliseconds(now - due) <= kMostLag_ms && now < end_) return due;
    }
  }

  asio::awaitable<void> Ask(tcp::socket& socket, boost::beast::flat_buffer& buffer, Clock::time_point due) {
    const double lag_ms = Milliseconds(Clock::now() - due);
    boost::system::error_code error;
    auto caught = asio::redirect_error(asio::use_awaitable, error);
    if (!socket.is_open()) {
      buffer.clear();
      co_await socket.async_connect({asio::ip::address_v4::loopback(), plan_.port}, caught);
      if (!error) socket.set_option(tcp::no_delay(true), error);
      // The request leaves in one call, so that an answer to its head alone is read when it is there.
      if (!error) socket.set_option(tcp::socket::send_buffer_size(static_cast<int>(request_.size())), error);
    }
    http::response<http::string_body> response;
    if (!error) co_await asio::async_write(socket, asio::buffer(request_), caught);
    // A refusal may come, and the connection end, before all is sent: the answer is still there to read.
    boost::system::error_code read_error;
    co_await http::async_read(socket, buffer, response, asio::redirect_error(asio::use_awaitable, read_error));
    Count(read_error ? 0 : static_cast<int>(response.result_int()), due, lag_ms, response.body());
    if (error || read_error || !response.keep_alive()) socket.close(error);
  }

  void Count(int status, Clock::time_point due, double lag_ms, std::string& body) {
    if (due < counted_) return;
    const auto now = Clock::now();
    // A closed loop's answers past the window take the place of those before it.
    if (plan_.rate > 0) last_answer_ = std::max(last_answer_, now);
    result_.lag_ms.push_back(lag_ms);
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
  asio::steady_timer patience_{context_};  // until what is unanswered has failed
  std::deque<tcp::socket> sockets_;        // one a connection
  uint32_t open_ = 0;                      // connections that go on
  Clock::time_point begin_, counted_, end_, last_answer_;
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
                   fmt::format("port {}: no answer to {}: of {} requests in {} s {} were sent, and none was answered "
                               "with success or a refusal in {} s more: look at the server's log",
                               plan.port, plan.target, result.due, plan.seconds, result.sent, plan.grace_s)};
    }
    return result;
  } catch (const std::exception& error) {  // Asio's, where it has no error code to give
    return Error{ErrorCode::kIo, fmt::format("port {}: {}", plan.port, error.what())};
  }
}

}  // namespace pointsman
