// The HTTP/1.1 server: listens, parses strictly (http/strict.h), limits, authenticates, routes, answers, drains.
//
//   POINTSMAN_TRY(auto server, HttpServer::Start(options, std::move(router), hooks));
//   ...
//   server->Drain();      // stop accepting, finish what runs; returns when done or at the deadline
//
// Threads: `network_threads` of its own run all connections and handlers (Boost.Asio coroutines). Public methods may be
// called from any other thread. Nothing is queued without bound: connections, requests in flight, bytes buffered and
// the time of every phase have limits, and what is over them is refused at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/access.h"
#include "daemon/api_error.h"
#include "daemon/http/path_router.h"
#include "memory/result.h"

namespace pointsman {

struct HttpLimits {
  uint32_t header_bytes = 16 * 1024;  // request line and fields together
  uint32_t header_fields = 100;
  uint32_t target_bytes = 4096;
  uint64_t body_bytes = 32ull << 20;
  uint32_t connections = 1024;          // open at once, all listeners together
  uint32_t connections_per_peer = 512;  // of one address; unix-socket peers count as one
  uint32_t requests_in_flight = 256;    // whose handler runs; public routes are not counted
  uint32_t requests_per_connection = 10'000;
  uint32_t header_timeout_ms = 10'000;    // from the first byte of a request to its last header byte
  uint32_t body_timeout_ms = 30'000;      // from there to the last body byte
  uint32_t idle_timeout_ms = 75'000;      // between requests of a connection
  uint32_t handler_timeout_ms = 600'000;  // until the answer begins; then 503
  uint32_t write_timeout_ms = 30'000;     // for a client to take one chunk
  uint32_t tls_handshake_timeout_ms = 10'000;
};

struct HttpServerOptions {
  std::string address = "127.0.0.1";               // empty: no TCP listener
  uint16_t port = 8077;                            // 0: any free one, see port()
  std::filesystem::path unix_socket;               // empty: none. Created with mode 0660, removed on stop
  std::filesystem::path tls_certificate, tls_key;  // PEM; both or neither. Applies to the TCP listener
  HttpLimits limits;
  int network_threads = 1;
  uint32_t drain_timeout_ms = 30'000;
};

// One finished request, for metrics, access log and audit log.
struct HttpRecord {
  const HttpRequest* request = nullptr;  // null if refused before it could be parsed
  int status = 0;
  uint64_t bytes_sent = 0;
  double seconds = 0;  // from the first byte of the request to the last of the answer
  std::string peer;
  std::string_view refused;  // why, for what never reached a handler: "strict", "limit", "timeout", ...; else empty
};

struct HttpHooks {
  // Who is this? Sees the request's headers (Authorization, X-Api-Key). The error is answered as it is. Required.
  std::function<Result<Principal>(const HttpRequest&)> authenticate;
  std::function<void(const HttpRecord&)> on_finished;  // on a network thread; quick; may be empty
  // A handler threw: a defect of ours, answered with 500. May be empty.
  std::function<void(const HttpRequest&, const std::string& what)> on_defect;
};

struct HttpServerStats {
  uint32_t connections = 0, requests_in_flight = 0;
  uint64_t accepted = 0, refused_connections = 0;
};

class HttpServer {
 public:
  // Binds and starts serving. Errors: kInvalidArgument (an address, a certificate), kBusy (address in use, with the
  // remedy), kIo.
  static Result<std::unique_ptr<HttpServer>> Start(HttpServerOptions options, PathRouter router, HttpHooks hooks);
  ~HttpServer();  // aborts what still runs

  uint16_t port() const;  // of the TCP listener, 0 without one
  HttpServerStats stats() const;

  // New certificate and key from the same files; connections that are open keep theirs.
  Status ReloadTls();

  // Ends the network threads at once; connections and what handlers hold stay until the destructor, which is the place
  // for it: after what tells handlers of its end, since that posts to them. May be called again.
  void Stop();

  // Stops accepting, answers new requests of open connections with 503, lets running ones finish; at the deadline
  // requests their cancellation and closes. true: everything finished in time. Blocks; call once.
  bool Drain();

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
