#include "daemon/http/http_server.h"

#include <fmt/format.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <set>
#include <thread>

#include "daemon/http/connection.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using tcp = asio::ip::tcp;
using unix_protocol = asio::local::stream_protocol;

Error IoError(const std::string& what, const boost::system::error_code& error) {
  const bool taken = error == asio::error::address_in_use;
  return {taken ? ErrorCode::kBusy : ErrorCode::kIo,
          fmt::format("{}: {}{}", what, error.message(),
                      taken ? "; stop what listens there or choose another --port" : "")};
}

Result<std::shared_ptr<asio::ssl::context>> LoadTls(const HttpServerOptions& options) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  boost::system::error_code error;
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  context->set_options(asio::ssl::context::no_compression | SSL_OP_NO_RENEGOTIATION, error);
  context->use_certificate_chain_file(options.tls_certificate.string(), error);
  if (error) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}: not a PEM certificate ({})", options.tls_certificate.string(), error.message())};
  }
  context->use_private_key_file(options.tls_key.string(), asio::ssl::context::pem, error);
  if (error || SSL_CTX_check_private_key(context->native_handle()) != 1) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}: not the PEM key of that certificate", options.tls_key.string())};
  }
  return context;
}

// A socket file that nobody listens on is left over from a killed server.
Status ClearStaleSocket(const std::filesystem::path& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode)) {
    return Error{ErrorCode::kInvalidArgument, path.string() + ": exists and is no socket; choose another path"};
  }
  asio::io_context context;
  unix_protocol::socket probe(context);
  boost::system::error_code error;
  probe.connect(unix_protocol::endpoint(path.string()), error);
  if (!error) return Error{ErrorCode::kBusy, path.string() + ": another server listens there"};
  unlink(path.c_str());
  return {};
}

}  // namespace

struct HttpServer::Impl {
  ServerState state;
  asio::io_context context;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::vector<std::thread> threads;
  std::optional<tcp::acceptor> tcp_acceptor;
  std::optional<unix_protocol::acceptor> unix_acceptor;
  std::mutex mutex;
  std::condition_variable all_gone;
  std::set<AnyConnection*> live;
  std::shared_ptr<asio::ssl::context> tls;  // under mutex: replaced by ReloadTls

  ~Impl() { Stop(); }

  Status ListenTcp();
  Status ListenUnix();
  void Run();
  void Stop();
  bool Enter(const std::string& peer);
  void Leave(const std::string& peer);

  template <typename Acceptor, typename OnSocket>
  asio::awaitable<void> Accept(Acceptor& acceptor, OnSocket on_socket);
  template <typename Stream>
  asio::awaitable<void> Serve(std::shared_ptr<Connection<Stream>> connection, std::string peer,
                              std::shared_ptr<asio::ssl::context> keys);
  template <typename Stream>
  void Spawn(Stream stream, std::string peer, std::shared_ptr<asio::ssl::context> keys);
};

Status HttpServer::Impl::ListenTcp() {
  boost::system::error_code error;
  const std::string name = fmt::format("{}:{}", state.options.address, state.options.port);
  const auto address = asio::ip::make_address(state.options.address, error);
  if (error) {
    return Error{ErrorCode::kInvalidArgument,
                 state.options.address + ": not an IP address; use 127.0.0.1, ::1 or 0.0.0.0"};
  }
  const tcp::endpoint endpoint(address, state.options.port);
  tcp_acceptor.emplace(context);
  tcp_acceptor->open(endpoint.protocol(), error);
  if (!error) tcp_acceptor->set_option(asio::socket_base::reuse_address(true), error);
  if (!error) tcp_acceptor->bind(endpoint, error);
  if (!error) tcp_acceptor->listen(1024, error);
  if (error) return IoError(name, error);
  return {};
}

Status HttpServer::Impl::ListenUnix() {
  const std::filesystem::path& path = state.options.unix_socket;
  POINTSMAN_CHECK_OK(ClearStaleSocket(path));
  boost::system::error_code error;
  unix_acceptor.emplace(context);
  unix_acceptor->open(unix_protocol(), error);
  const mode_t mask = umask(0117);  // 0660 from the first moment
  if (!error) unix_acceptor->bind(unix_protocol::endpoint(path.string()), error);
  umask(mask);
  if (!error) unix_acceptor->listen(1024, error);
  if (error) return IoError(path.string(), error);
  return {};
}

bool HttpServer::Impl::Enter(const std::string& peer) {
  const HttpLimits& limits = state.options.limits;
  const std::lock_guard lock(state.mutex);
  uint32_t& of_peer = state.by_peer[peer];
  if (state.connections >= limits.connections || of_peer >= limits.connections_per_peer || state.draining) {
    if (of_peer == 0) state.by_peer.erase(peer);
    ++state.refused;
    return false;
  }
  ++of_peer;
  ++state.connections;
  ++state.accepted;
  return true;
}

void HttpServer::Impl::Leave(const std::string& peer) {
  const std::lock_guard lock(state.mutex);
  if (const auto found = state.by_peer.find(peer); found != state.by_peer.end() && --found->second == 0) {
    state.by_peer.erase(found);
  }
  --state.connections;
}

template <typename Stream>
asio::awaitable<void> HttpServer::Impl::Serve(std::shared_ptr<Connection<Stream>> connection, std::string peer,
                                              [[maybe_unused]] std::shared_ptr<asio::ssl::context> keys) {
  {
    const std::lock_guard lock(mutex);
    live.insert(connection.get());
  }
  bool ready = true;
  if constexpr (std::is_same_v<Stream, TlsStream>) {
    boost::system::error_code error;
    beast::get_lowest_layer(connection->stream())
        .expires_after(std::chrono::milliseconds(state.options.limits.tls_handshake_timeout_ms));
    co_await connection->stream().async_handshake(asio::ssl::stream_base::server,
                                                  asio::redirect_error(asio::use_awaitable, error));
    ready = !error;
  }
  if (ready) co_await connection->Run();
  {
    const std::lock_guard lock(mutex);
    live.erase(connection.get());
    if (live.empty()) all_gone.notify_all();
  }
  Leave(peer);
}

template <typename Stream>
void HttpServer::Impl::Spawn(Stream stream, std::string peer, std::shared_ptr<asio::ssl::context> keys) {
  const auto executor = stream.get_executor();
  auto connection = std::make_shared<Connection<Stream>>(std::move(stream), state, peer, keys != nullptr);
  asio::co_spawn(executor, Serve(std::move(connection), std::move(peer), std::move(keys)), asio::detached);
}

// Accepts until closed. A failure that is about one connection or about having too many of them (descriptors) is
// waited out.
template <typename Acceptor, typename OnSocket>
asio::awaitable<void> HttpServer::Impl::Accept(Acceptor& acceptor, OnSocket on_socket) {
  for (;;) {
    boost::system::error_code error;
    auto socket =
        co_await acceptor.async_accept(asio::make_strand(context), asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::operation_aborted || !acceptor.is_open()) co_return;
    if (error) {
      asio::steady_timer pause(context, std::chrono::milliseconds(50));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    on_socket(std::move(socket));
  }
}

void HttpServer::Impl::Run() {
  // What an overloaded server says before it closes: one small write that cannot block.
  const std::string body = ErrorJson({ApiCode::kOverloaded, "too many connections; try again"});
  const std::string answer = fmt::format(
      "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      body.size(), body);
  const auto turn_away = [answer](auto& socket) {
    boost::system::error_code ignored;
    socket.non_blocking(true, ignored);
    socket.send(asio::buffer(answer), 0, ignored);
    socket.shutdown(asio::socket_base::shutdown_both, ignored);
  };
  if (tcp_acceptor) {
    asio::co_spawn(context,
                   Accept(*tcp_acceptor,
                          [this, turn_away](auto socket) {
                            boost::system::error_code error;
                            const auto endpoint = socket.remote_endpoint(error);
                            if (error) return;  // gone already
                            const std::string peer = endpoint.address().to_string();
                            std::shared_ptr<asio::ssl::context> keys;
                            {
                              const std::lock_guard lock(mutex);
                              keys = tls;
                            }
                            if (!Enter(peer)) {
                              if (!keys) turn_away(socket);
                              return;
                            }
                            socket.set_option(tcp::no_delay(true), error);
                            if (keys) {
                              Spawn(TlsStream(TcpStream(std::move(socket)), *keys), peer, keys);
                            } else {
                              Spawn(TcpStream(std::move(socket)), peer, nullptr);
                            }
                          }),
                   asio::detached);
  }
  if (unix_acceptor) {
    asio::co_spawn(context,
                   Accept(*unix_acceptor,
                          [this, turn_away](auto socket) {
                            if (!Enter("unix")) return turn_away(socket);
                            Spawn(UnixStream(std::move(socket)), "unix", nullptr);
                          }),
                   asio::detached);
  }
  work.emplace(context.get_executor());
  for (int i = 0; i < std::max(1, state.options.network_threads); ++i) {
    threads.emplace_back([this] { context.run(); });
  }
}

void HttpServer::Impl::Stop() {
  {
    const std::lock_guard lock(mutex);
    for (AnyConnection* connection : live) connection->Abort();
  }
  work.reset();
  context.stop();
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  if (unix_acceptor) {
    unix_acceptor.reset();
    unlink(state.options.unix_socket.c_str());
  }
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options, PathRouter router, HttpHooks hooks) {
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return Error{ErrorCode::kInvalidArgument, "TLS needs both a certificate and its key"};
  }
  if (options.address.empty() && options.unix_socket.empty()) {
    return Error{ErrorCode::kInvalidArgument, "neither an address nor a Unix socket to listen on"};
  }
  auto impl = std::make_unique<Impl>();
  impl->state.options = std::move(options);
  impl->state.router = std::move(router);
  impl->state.hooks = std::move(hooks);
  RAND_bytes(reinterpret_cast<unsigned char*>(&impl->state.instance), sizeof(impl->state.instance));
  const HttpServerOptions& o = impl->state.options;
  if (!o.tls_certificate.empty()) {
    POINTSMAN_TRY(impl->tls, LoadTls(o));
  }
  if (!o.address.empty()) POINTSMAN_CHECK_OK(impl->ListenTcp());
  if (!o.unix_socket.empty()) POINTSMAN_CHECK_OK(impl->ListenUnix());
  impl->Run();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

uint16_t HttpServer::port() const {
  boost::system::error_code ignored;
  return impl_->tcp_acceptor ? impl_->tcp_acceptor->local_endpoint(ignored).port() : 0;
}

HttpServerStats HttpServer::stats() const {
  const ServerState& state = impl_->state;
  return {.connections = state.connections,
          .requests_in_flight = state.requests_in_flight,
          .accepted = state.accepted,
          .refused_connections = state.refused};
}

void HttpServer::Stop() { impl_->Stop(); }

Status HttpServer::ReloadTls() {
  if (impl_->state.options.tls_certificate.empty()) return {};
  POINTSMAN_TRY(auto fresh, LoadTls(impl_->state.options));
  const std::lock_guard lock(impl_->mutex);
  impl_->tls = std::move(fresh);
  return {};
}

bool HttpServer::Drain() {
  impl_->state.draining = true;
  asio::post(impl_->context, [impl = impl_.get()] {
    boost::system::error_code ignored;
    if (impl->tcp_acceptor) impl->tcp_acceptor->close(ignored);
    if (impl->unix_acceptor) impl->unix_acceptor->close(ignored);
  });
  std::unique_lock lock(impl_->mutex);
  for (AnyConnection* connection : impl_->live) connection->CloseIfIdle();
  const auto none = [this] { return impl_->live.empty(); };
  const bool in_time =
      impl_->all_gone.wait_for(lock, std::chrono::milliseconds(impl_->state.options.drain_timeout_ms), none);
  if (in_time) return true;
  for (AnyConnection* connection : impl_->live) connection->Abort();
  impl_->all_gone.wait_for(lock, std::chrono::seconds(2), none);
  return false;
}

}  // namespace pointsman
