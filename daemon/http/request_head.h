// The request line and fields of one request, read strictly: what a lenient parser would guess at is refused, because
// two readers that guess differently are how requests are smuggled. Pure functions: any thread.
//
// Beyond what Boost.Beast refuses by itself: obs-fold, a missing or second Host, any second Content-Length even if
// equal, lists in it, transfer codings other than a single `chunked`, a coding in HTTP/1.0, names with underscores,
// control characters, targets that are not in origin form or that decode to something else than they look like, bodies
// where the method has none, expectations other than 100-continue. RFC 9110 and 9112 allow a server to refuse each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "daemon/api_error.h"
#include "daemon/http/http_server.h"
#include "daemon/http/message.h"

namespace pointsman {

struct RequestHead {
  std::string method, path;  // path is decoded
  TextMap query, headers;
  bool keep_alive = true;
  bool http11 = true;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool expects_continue = false;

  bool has_body() const { return chunked || content_length.value_or(0) > 0; }
};

// `block`: from the first byte of the request line up to and including the empty line. An error means that the framing
// cannot be trusted: answer it and close the connection.
std::variant<RequestHead, ApiError> ParseRequestHead(std::string_view block, const HttpLimits& limits);

// "%41" -> "A". Nothing where a % is not followed by two hex digits or a control character comes out.
std::optional<std::string> PercentDecode(std::string_view text, bool plus_is_space);

}  // namespace pointsman
