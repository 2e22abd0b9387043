// The longer members of Connection; see connection.h.
#pragma once

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <exception>

#include "daemon/http/connection.h"

namespace pointsman {

namespace http = boost::beast::http;

inline constexpr uint64_t kDroppedBytes = 512 * 1024;  // of a refused request's body; more costs the connection
inline constexpr uint32_t kDropTimeout_ms = 2000;

// Sees that a client has gone while its answer is being made: a readable socket without bytes is one that was closed.
// Ends by itself when bytes come (the next request) or with the request.
template <typename Stream>
class Connection<Stream>::Watch {
 public:
  explicit Watch(std::shared_ptr<Connection> connection)
      : signal_(std::make_shared<boost::asio::cancellation_signal>()) {
    auto& socket = connection->Lowest().socket();
    socket.async_wait(
        boost::asio::socket_base::wait_read,
        boost::asio::bind_cancellation_slot(signal_->slot(), [connection, held = signal_,
                                                              cancelled = connection->cancelled_](ErrorOf error) {
          char byte = 0;
          if (error) return;
          const ssize_t got = recv(connection->Lowest().socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
          if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) cancelled->Request();
        }));
  }
  ~Watch() { signal_->emit(boost::asio::cancellation_type::all); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  std::shared_ptr<boost::asio::cancellation_signal> signal_;
};

// A deadline of the reads in its scope that leaves the stream open, so that a slow client is told: Beast's own closes.
template <typename Stream>
class Connection<Stream>::ReadDeadline {
 public:
  ReadDeadline(std::shared_ptr<Connection> connection, uint32_t milliseconds)
      : state_(std::make_shared<State>()), timer_(connection->Executor()) {
    connection->Lowest().expires_never();
    timer_.expires_after(std::chrono::milliseconds(milliseconds));
    timer_.async_wait([connection, state = state_](ErrorOf error) {
      if (error || state->over) return;
      state->passed = true;
      connection->Lowest().cancel();
      connection->Expire(1000);  // a composed read that was between two reads goes on: it ends with Beast's deadline
    });
  }
  ~ReadDeadline() {
    state_->over = true;
    timer_.cancel();
  }
  ReadDeadline(const ReadDeadline&) = delete;
  ReadDeadline& operator=(const ReadDeadline&) = delete;
  bool passed() const { return state_->passed; }

 private:
  struct State {
    bool passed = false, over = false;
  };
  std::shared_ptr<State> state_;
  boost::asio::steady_timer timer_;
};

template <typename Stream>
class Connection<Stream>::ChunkStream : public HttpStream {
 public:
  ChunkStream(Connection& connection, bool chunked) : connection_(connection), chunked_(chunked) {}
  boost::asio::awaitable<bool> Write(std::string_view bytes) override {
    if (failed_ || bytes.empty()) co_return !failed_;
    connection_.Expire(connection_.state_.options.limits.write_timeout_ms);
    ErrorOf error;
    const boost::asio::const_buffer data(bytes.data(), bytes.size());
    if (chunked_) {
      connection_.sent_ +=
          co_await boost::asio::async_write(connection_.stream_, http::make_chunk(data), connection_.Token(error));
    } else {
      connection_.sent_ += co_await boost::asio::async_write(connection_.stream_, data, connection_.Token(error));
    }
    failed_ = static_cast<bool>(error);
    if (failed_ && connection_.cancelled_) connection_.cancelled_->Request();
    connection_.Lowest().expires_never();
    co_return !failed_;
  }
  bool failed() const { return failed_; }

 private:
  Connection& connection_;
  const bool chunked_;
  bool failed_ = false;
};

inline std::string HttpDate() { return fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", fmt::gmtime(std::time(nullptr))); }

// The client's own id if it is harmless to repeat in headers and logs.
inline std::string RequestId(const TextMap& headers, ServerState& state) {
  const auto given = headers.find("x-request-id");
  if (given != headers.end() && !given->second.empty() && given->second.size() <= 64 &&
      std::ranges::all_of(given->second,
                          [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; })) {
    return given->second;
  }
  return fmt::format("{:08x}{:08x}", state.instance & 0xffffffff, state.next_request++);
}

template <typename Stream>
boost::asio::awaitable<bool> Connection<Stream>::Respond(const HttpRequest* request, HttpResponse response,
                                                         bool head_only, bool keep_alive, bool http11) {
  http::response<http::string_body> message;
  message.version(http11 ? 11 : 10);
  message.result(static_cast<unsigned>(response.status));
  message.set(http::field::date, HttpDate());
  message.set(http::field::server, "pointsman");
  if (request) message.set("X-Request-Id", request->id);
  if (!response.content_type.empty()) message.set(http::field::content_type, response.content_type);
  message.set("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : response.headers) message.insert(name, value);
  const bool streamed = static_cast<bool>(response.stream) && !head_only;
  // HTTP/1.0 has no chunks: the end of the connection is the end of the body.
  if (streamed && !http11) keep_alive = false;
  message.keep_alive(keep_alive);
  Expire(state_.options.limits.write_timeout_ms);
  ErrorOf error;
  if (!streamed) {
    const bool unmodified = response.status == 304;  // a length would be the resource's, which is not sent
    if (!response.stream && !unmodified) message.content_length(response.body.size());
    if (!head_only) message.body() = std::move(response.body);
    http::serializer<false, http::string_body> serializer(message);
    if (head_only) {
      sent_ += co_await http::async_write_header(stream_, serializer, Token(error));
    } else {
      sent_ += co_await http::async_write(stream_, serializer, Token(error));
    }
    co_return !error && keep_alive;
  }
  if (http11) message.chunked(true);
  http::response<http::empty_body> header(std::move(message.base()));
  http::serializer<false, http::empty_body> serializer(header);
  sent_ += co_await http::async_write_header(stream_, serializer, Token(error));
  if (error) {
    if (cancelled_) cancelled_->Request();
    co_return false;
  }
  Lowest().expires_never();
  ChunkStream chunks(*this, http11);
  bool broken = false;
  try {
    co_await response.stream(chunks);
  } catch (const std::exception& defect) {  // of a handler: the stream ends without its last chunk, so the client knows
    broken = true;
  }
  if (broken || chunks.failed()) co_return false;
  if (http11) {
    Expire(state_.options.limits.write_timeout_ms);
    sent_ += co_await boost::asio::async_write(stream_, http::make_chunk_last(), Token(error));
  }
  co_return !error && keep_alive;
}

// Reads and drops what the client still sends for a moment, so that it can read the refusal before a reset.
template <typename Stream>
boost::asio::awaitable<void> Connection<Stream>::Linger() {
  ErrorOf error;
  Lowest().socket().shutdown(boost::asio::socket_base::shutdown_send, error);
  Expire(500);
  std::array<char, 16 * 1024> dropped;
  for (size_t total = 0; total < (1 << 20) && !error;) {
    total += co_await Lowest().async_read_some(boost::asio::buffer(dropped), Token(error));
  }
}

template <typename Stream>
boost::asio::awaitable<bool> Connection<Stream>::Refuse(const HttpRequest* request, ApiError error,
                                                        std::string_view why, bool keep_alive) {
  bool kept = false;
  if (!gone_) {
    HttpResponse response = ErrorResponse(error);
    kept = co_await Respond(request, std::move(response), request && request->method == "HEAD", keep_alive, true);
  }
  if (state_.hooks.on_finished) {
    state_.hooks.on_finished({.request = request,
                              .status = RowOf(error.code).status,
                              .bytes_sent = sent_,
                              .seconds = std::chrono::duration<double>(Clock::now() - began_).count(),
                              .peer = peer_,
                              .refused = why});
  }
  if (!kept && !gone_) co_await Linger();
  co_return kept;
}

// Reads a body that nobody wants, so that the connection can go on with the request behind it; false if it does not
// come soon.
template <typename Stream>
boost::asio::awaitable<bool> Connection<Stream>::DropBody(uint64_t bytes) {
  const uint64_t here = std::min<uint64_t>(bytes, buffer_.size());
  buffer_.consume(here);
  bytes -= here;
  Expire(std::min(state_.options.limits.body_timeout_ms, kDropTimeout_ms));
  std::array<char, 32 * 1024> dropped;
  ErrorOf error;
  while (bytes > 0 && !error) {
    bytes -= co_await stream_.async_read_some(
        boost::asio::buffer(dropped.data(), std::min<uint64_t>(bytes, dropped.size())), Token(error));
  }
  co_return !error;
}

// Too busy for this request: said after its head, while its body is still on the way. A client that meets this often
// should not have to connect anew each time, so a body of modest size is dropped and the connection goes on.
template <typename Stream>
boost::asio::awaitable<bool> Connection<Stream>::RefuseLoad(const RequestHead& head, size_t header_bytes,
                                                            const HttpRequest& request, ApiError error,
                                                            bool keep_alive) {
  const uint64_t body_bytes = head.content_length.value_or(0);
  // Who waits for 100 Continue may send the body or not: nobody can know where the next request begins.
  const bool drop = head.content_length && body_bytes <= kDroppedBytes && !head.expects_continue;
  if (!co_await Refuse(&request, error, "limit", keep_alive && (drop || !head.has_body()))) co_return false;
  buffer_.consume(header_bytes);
  co_return co_await DropBody(body_bytes);
}

template <typename Stream>
boost::asio::awaitable<bool> Connection<Stream>::ReadBody(const RequestHead& head, std::string_view block,
                                                          uint64_t limit, HttpRequest& request,
                                                          std::optional<ApiError>& error) {
  const auto too_large = [&] {
    error = ApiError{ApiCode::kPayloadTooLarge, fmt::format("HTTP: a body of more than {} bytes", limit)};
    return false;
  };
  if (head.content_length.value_or(0) > limit) co_return too_large();
  if (head.expects_continue) {
    Expire(state_.options.limits.write_timeout_ms);
    constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    ErrorOf failed;
    co_await boost::asio::async_write(stream_, boost::asio::buffer(kContinue), Token(failed));
    if (failed) co_return false;
  }
  // Beast reads the same header block again, and decodes chunks.
  http::request_parser<http::string_body> parser;
  parser.header_limit(state_.options.limits.header_bytes + 1);
  parser.body_limit(limit);
  ErrorOf failed;
  parser.put(boost::asio::buffer(block.data(), block.size()), failed);
  buffer_.consume(block.size());
  if (failed && failed != http::error::need_more) {
    error = ApiError{ApiCode::kInvalidRequest, "HTTP: " + failed.message()};
    co_return false;
  }
  std::optional<ReadDeadline> deadline;
  if (!parser.is_done()) {
    deadline.emplace(this->shared_from_this(), state_.options.limits.body_timeout_ms);
    co_await http::async_read(stream_, buffer_, parser, Token(failed));
  }
  if (failed == http::error::body_limit) co_return too_large();
  if (failed && deadline && deadline->passed()) {
    gone_ = failed == boost::beast::error::timeout;
    error = ApiError{ApiCode::kRequestTimeout, "HTTP: the request's body did not arrive in time"};
    co_return false;
  }
  if (failed) {
    gone_ = failed.category() != http::make_error_code(http::error::bad_chunk).category();
    error = ApiError{ApiCode::kInvalidRequest, "HTTP: " + failed.message()};
    co_return false;
  }
  request.body = std::move(parser.get().body());
  co_return true;
}

template <typename Stream>
boost::asio::awaitable<HttpResponse> Connection<Stream>::CallHandler(const Route& route, const HttpRequest& request) {
  // The deadline only asks the handler to stop: what it holds must be given back by itself.
  auto timer = std::make_shared<boost::asio::steady_timer>(Executor());
  timer->expires_after(std::chrono::milliseconds(state_.options.limits.handler_timeout_ms));
  const auto late = std::make_shared<std::atomic<bool>>(false);
  timer->async_wait([timer, late, cancelled = cancelled_](ErrorOf error) {
    if (error) return;
    *late = true;
    cancelled->Request();
  });
  HttpResponse response;
  std::optional<std::string> defect;
  try {
    response = co_await route.handler(request);
  } catch (const std::exception& thrown) {
    defect = thrown.what();
  }
  timer->cancel();
  if (defect) {
    if (state_.hooks.on_defect) state_.hooks.on_defect(request, *defect);
    co_return ErrorResponse({ApiCode::kInternal, "the server could not do this; its log says why"});
  }
  if (*late) co_return ErrorResponse({ApiCode::kOverloaded, "the answer took too long", {}, 5});
  co_return response;
}

template <typename Stream>
boost::asio::awaitable<bool> Connection<Stream>::ServeOne(bool last) {
  began_ = Clock::now();
  sent_ = 0;
  auto block = co_await ReadHeaderBlock();
  if (const auto* error = std::get_if<ApiError>(&block)) {
    co_return co_await Refuse(nullptr, *error, error->code == ApiCode::kRequestTimeout ? "timeout" : "strict", false);
  }
  const std::string header(std::get<std::string_view>(block));
  auto parsed = ParseRequestHead(header, state_.options.limits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) co_return co_await Refuse(nullptr, *error, "strict", false);
  auto& head = std::get<RequestHead>(parsed);

  HttpRequest request;
  request.id = RequestId(head.headers, state_);
  request.method = head.method;
  request.path = std::move(head.path);
  request.query = std::move(head.query);
  request.headers = std::move(head.headers);
  request.peer = peer_;
  request.tls = tls_;
  request.cancelled = cancelled_ = std::make_shared<Cancellation>();
  const bool bodyless = !head.has_body();
  const bool keep_alive = head.keep_alive && !last && !state_.draining;
  // A refusal before the body was read may only keep the connection if there is none. Errors are named before they are
  // passed: GCC 12 destroys an aggregate temporary of a co_await expression twice.
  const auto refuse = [&](ApiError error, std::string_view why) {
    if (bodyless) buffer_.consume(header.size());
    return Refuse(&request, error, why, keep_alive && bodyless);
  };

  PathRouter::Match match = state_.router.Find(request.method, request.path);
  if (!match.route && match.allowed.empty()) {
    const ApiError error{ApiCode::kNotFound, request.path.substr(0, 200) + ": no such resource"};
    co_return co_await refuse(error, "path");
  }
  if (!match.route) {
    HttpResponse response =
        ErrorResponse({ApiCode::kMethodNotAllowed, request.method + " is not served here; use " + match.allowed});
    response.headers.emplace_back("Allow", match.allowed);
    if (bodyless) buffer_.consume(header.size());
    const bool kept =
        co_await Respond(&request, std::move(response), request.method == "HEAD", keep_alive && bodyless, head.http11);
    if (!kept) co_await Linger();
    co_return kept;
  }
  request.route = match.route->pattern;
  request.parameters = std::move(match.parameters);
  if (match.route->access != Access::kPublic) {
    if (state_.draining) {
      const ApiError error{ApiCode::kNotReady, "the server is stopping", {}, 5};
      co_return co_await refuse(error, "draining");
    }
    Result<Principal> who = state_.hooks.authenticate(request);
    if (!who.ok()) {
      const ApiError error{ApiCode::kUnauthorized, who.error().message};
      co_return co_await refuse(error, "key");
    }
    request.principal = std::move(who).value();
    if (request.principal.access < match.route->access) {
      const ApiError error{ApiCode::kForbidden,
                           fmt::format("this needs a key with {} access; '{}' has {}", AccessName(match.route->access),
                                       request.principal.name, AccessName(request.principal.access))};
      co_return co_await refuse(error, "access");
    }
  }
  std::optional<InFlight> slot;
  if (match.route->access != Access::kPublic) {
    slot.emplace(state_.requests_in_flight, state_.options.limits.requests_in_flight);
    if (!slot->admitted()) {
      const ApiError error{ApiCode::kOverloaded, "too many requests are running; try again", {}, 1};
      co_return co_await RefuseLoad(head, header.size(), request, error, keep_alive);
    }
  }
  if (match.route->refuses) {
    if (const std::optional<ApiError> error = match.route->refuses(request)) {
      slot.reset();
      co_return co_await RefuseLoad(head, header.size(), request, *error, keep_alive);
    }
  }
  if (bodyless) {
    buffer_.consume(header.size());
  } else {
    const uint64_t limit = match.route->max_body_bytes ? match.route->max_body_bytes : state_.options.limits.body_bytes;
    std::optional<ApiError> error;
    if (!co_await ReadBody(head, header, limit, request, error)) {
      if (!error) co_return false;
      co_return co_await Refuse(&request, *error, error->code == ApiCode::kRequestTimeout ? "timeout" : "body", false);
    }
  }
  Lowest().expires_never();
  bool kept = false;
  int status = 0;
  {
    const Watch watch(this->shared_from_this());
    HttpResponse response = co_await CallHandler(*match.route, request);
    status = response.status;
    kept = co_await Respond(&request, std::move(response), request.method == "HEAD", keep_alive, head.http11);
  }
  cancelled_.reset();
  slot.reset();
  if (state_.hooks.on_finished) {
    state_.hooks.on_finished({.request = &request,
                              .status = status,
                              .bytes_sent = sent_,
                              .seconds = std::chrono::duration<double>(Clock::now() - began_).count(),
                              .peer = peer_,
                              .refused = {}});
  }
  co_return kept;
}

}  // namespace pointsman
