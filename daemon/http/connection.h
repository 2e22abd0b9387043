// One connection: reads requests one after the other, answers them in order. A template over the transport: TCP, TLS
// over TCP, Unix socket. Internal to this folder.
//
// Every wait has a deadline: idle, header, body, handler, write. Bytes that a client sends ahead (pipelining) stay in
// the buffer until the answer before them is out, so a client cannot make the server hold more than one header block
// and one body.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>  // before asio's coroutine headers, see daemon/http/message.h

#include "daemon/http/request_head.h"
#include "daemon/http/server_state.h"
#include "daemon/http/streams.h"

namespace pointsman {

// What the server can do to a connection of any transport.
class AnyConnection {
 public:
  virtual ~AnyConnection() = default;
  virtual void CloseIfIdle() = 0;  // any thread; a request that runs goes on
  virtual void Abort() = 0;        // any thread; requests its cancellation, closes
};

template <typename Stream>
class Connection : public AnyConnection, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, ServerState& state, std::string peer, bool tls)
      : stream_(std::move(stream)), state_(state), peer_(std::move(peer)), tls_(tls) {}

  boost::asio::awaitable<void> Run() {
    for (uint32_t served = 0; served < state_.options.limits.requests_per_connection; ++served) {
      if (!co_await WaitForRequest()) break;
      if (!co_await ServeOne(served + 1 == state_.options.limits.requests_per_connection)) break;
    }
    CloseLowest();
  }

  Stream& stream() { return stream_; }

  void CloseIfIdle() override {
    boost::asio::post(Executor(), [self = this->shared_from_this()] {
      if (self->idle_) self->CloseLowest();
    });
  }
  void Abort() override {
    boost::asio::post(Executor(), [self = this->shared_from_this()] {
      if (self->cancelled_) self->cancelled_->Request();
      self->CloseLowest();
    });
  }

 private:
  using Clock = std::chrono::steady_clock;
  using ErrorOf = boost::system::error_code;
  auto Executor() { return stream_.get_executor(); }
  auto& Lowest() { return boost::beast::get_lowest_layer(stream_); }
  auto Token(ErrorOf& error) { return boost::asio::redirect_error(boost::asio::use_awaitable, error); }
  void Expire(uint32_t milliseconds) { Lowest().expires_after(std::chrono::milliseconds(milliseconds)); }

  void CloseLowest() {
    ErrorOf ignored;
    Lowest().socket().shutdown(boost::asio::socket_base::shutdown_both, ignored);
    Lowest().close();
  }

  // Reads more into the buffer; false at the end or at the deadline.
  boost::asio::awaitable<bool> ReadSome(ErrorOf& error) {
    const size_t room = state_.options.limits.header_bytes + size_t{1};
    auto space = buffer_.prepare(std::min<size_t>(16 * 1024, room));
    const size_t got = co_await stream_.async_read_some(space, Token(error));
    buffer_.commit(got);
    co_return !error;
  }

  // True once the first byte of the next request is there.
  boost::asio::awaitable<bool> WaitForRequest() {
    if (buffer_.size() > 0) co_return true;
    if (state_.draining) co_return false;
    idle_ = true;
    Expire(state_.options.limits.idle_timeout_ms);
    ErrorOf error;
    const bool more = co_await ReadSome(error);
    idle_ = false;
    co_return more;
  }

  std::string_view Buffered() const { return {static_cast<const char*>(buffer_.data().data()), buffer_.size()}; }

  // The header block in the buffer, or why there is none.
  boost::asio::awaitable<std::variant<std::string_view, ApiError>> ReadHeaderBlock() {
    const HttpLimits& limits = state_.options.limits;
    std::optional<ReadDeadline> deadline;
    for (;;) {
      const std::string_view all = Buffered();
      const size_t end = all.find("\r\n\r\n");
      if (end != std::string_view::npos && end + 4 <= limits.header_bytes) co_return all.substr(0, end + 4);
      if (all.size() > limits.header_bytes || end != std::string_view::npos) {
        const bool line = all.find("\r\n") > limits.target_bytes + 32;
        co_return ApiError{line ? ApiCode::kUriTooLong : ApiCode::kHeadersTooLarge,
                           "HTTP: the request line and fields are too long"};
      }
      // A line feed that no carriage return announces never becomes a header block: do not wait for it.
      if (const size_t feed = all.find("\n\n"); feed != std::string_view::npos) {
        co_return ApiError{ApiCode::kInvalidRequest, "HTTP: lines end with CR LF"};
      }
      ErrorOf error;
      if (!deadline) deadline.emplace(this->shared_from_this(), limits.header_timeout_ms);
      if (!co_await ReadSome(error)) {
        gone_ = !deadline->passed();
        co_return ApiError{ApiCode::kRequestTimeout, "HTTP: the request's header did not arrive in time"};
      }
    }
  }

  boost::asio::awaitable<bool> ServeOne(bool last);
  boost::asio::awaitable<bool> ReadBody(const RequestHead& head, std::string_view block, uint64_t limit,
                                        HttpRequest& request, std::optional<ApiError>& error);
  boost::asio::awaitable<HttpResponse> CallHandler(const Route& route, const HttpRequest& request);
  boost::asio::awaitable<bool> Respond(const HttpRequest* request, HttpResponse response, bool head_only,
                                       bool keep_alive, bool http11);
  boost::asio::awaitable<bool> Refuse(const HttpRequest* request, ApiError error, std::string_view why,
                                      bool keep_alive);
  boost::asio::awaitable<bool> RefuseLoad(const RequestHead& head, size_t header_bytes, const HttpRequest& request,
                                          ApiError error, bool keep_alive);
  boost::asio::awaitable<bool> DropBody(uint64_t bytes);
  boost::asio::awaitable<void> Linger();

  class ChunkStream;
  class ReadDeadline;
  class Watch;

  Stream stream_;
  ServerState& state_;
  std::string peer_;
  const bool tls_;
  boost::beast::flat_buffer buffer_;
  std::shared_ptr<Cancellation> cancelled_;  // of the request that runs
  bool idle_ = false;
  bool gone_ = false;  // the client closed: nobody reads an answer
  Clock::time_point began_;
  uint64_t sent_ = 0;
  friend class ChunkStream;
};

// Each in a file of its own: one alone takes a compiler a minute.
extern template class Connection<TcpStream>;
extern template class Connection<TlsStream>;
extern template class Connection<UnixStream>;

}  // namespace pointsman
