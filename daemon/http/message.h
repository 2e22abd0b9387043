// A request that passed the strict checks (http/strict.h), and what a handler answers. Plain values; a request belongs
// to the handler's coroutine, which runs on one of the network threads.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>  // before asio's coroutine headers: GCC 12 needs std::exchange there
#include <vector>

#include "daemon/access.h"
#include "daemon/http/cancellation.h"

namespace pointsman {

using TextMap = std::map<std::string, std::string, std::less<>>;

struct HttpRequest {
  std::string id;      // X-Request-Id of the client if it is a plain token of at most 64 characters, else made here
  std::string method;  // "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"
  std::string path;    // decoded, starts with '/', no empty, "." or ".." segment
  std::string route;   // the pattern that matched, "/v1/memories/{id}": for metrics and logs, never raw client text
  TextMap query;       // decoded; a key that comes twice was refused
  TextMap parameters;  // of the pattern, decoded: "id"
  TextMap headers;     // names in lower case; a name that comes twice is joined with ", "
  std::string body;
  std::string peer;  // address without port, or "unix"
  bool tls = false;
  Principal principal;  // who asks; the route's access was already checked against it
  // Set when the client has gone or the server is past its drain deadline: long work should stop.
  std::shared_ptr<Cancellation> cancelled;

  std::string_view Header(std::string_view lower_case_name) const;  // empty: absent
};

// The body of an answer that is sent while it is made (SSE, downloads).
class HttpStream {
 public:
  virtual ~HttpStream() = default;
  // Sends a chunk; waits while the client reads slowly, up to the write deadline. false: the client has gone, stop.
  virtual boost::asio::awaitable<bool> Write(std::string_view bytes) = 0;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers = {};  // beside those that the server sets
  std::string body = {};
  // If set, `body` is not used: status and headers go out, then what this writes, chunked. An error after the first
  // byte can only be told inside the stream.
  std::function<boost::asio::awaitable<void>(HttpStream&)> stream = {};
};

// May suspend (waiting for the compute threads); must not block its thread for longer than a millisecond or so. What it
// throws is a defect: the server answers 500 and logs it.
using HttpHandler = std::function<boost::asio::awaitable<HttpResponse>(const HttpRequest&)>;

}  // namespace pointsman
