// From method and path to a handler. Patterns: "/v1/memories/{id}/documents"; a {name} takes one non-empty segment.
// Filled before the server starts, then immutable: any thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/access.h"
#include "daemon/api_error.h"
#include "daemon/http/message.h"

namespace pointsman {

struct Route {
  std::string method = {};   // "GET" also answers HEAD
  std::string pattern = {};  // as in schemas/openapi.yaml
  Access access = Access::kAdmin;
  HttpHandler handler = {};
  uint64_t max_body_bytes = 0;  // 0: the server's own limit
  // Asked when only the request's head is there: an error is answered without its body. No promise in the other case;
  // the handler decides. Network threads; quick, changes nothing. May be empty.
  std::function<std::optional<ApiError>(const HttpRequest&)> refuses = {};
};

class PathRouter {
 public:
  // REQUIRES: no route of the same method and shape yet.
  void Add(Route route);

  struct Match {
    const Route* route = nullptr;  // null: see `allowed`
    TextMap parameters;
    std::string allowed;  // methods that the path has, comma-separated; empty: no such path (404, else 405)
  };
  Match Find(std::string_view method, std::string_view path) const;

  const std::vector<Route>& routes() const { return routes_; }

 private:
  std::vector<Route> routes_;
};

}  // namespace pointsman
