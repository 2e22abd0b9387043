#include "daemon/http/path_router.h"

#include <algorithm>

namespace pointsman {
namespace {

// The segment that begins `rest` (after its slash), taken off.
std::string_view TakeSegment(std::string_view& rest) {
  rest.remove_prefix(1);
  const size_t end = std::min(rest.find('/'), rest.size());
  const std::string_view segment = rest.substr(0, end);
  rest.remove_prefix(end);
  return segment;
}

bool Matches(std::string_view pattern, std::string_view path, TextMap* parameters) {
  while (!pattern.empty() && !path.empty()) {
    const std::string_view expected = TakeSegment(pattern), segment = TakeSegment(path);
    if (expected.starts_with('{')) {
      if (segment.empty()) return false;
      if (parameters) (*parameters)[std::string(expected.substr(1, expected.size() - 2))] = segment;
    } else if (expected != segment) {
      return false;
    }
  }
  return pattern.empty() && path.empty();
}

}  // namespace

void PathRouter::Add(Route route) { routes_.push_back(std::move(route)); }

PathRouter::Match PathRouter::Find(std::string_view method, std::string_view path) const {
  Match match;
  for (const Route& route : routes_) {
    if (!Matches(route.pattern, path, nullptr)) continue;
    if (route.method == method || (route.method == "GET" && method == "HEAD")) {
      match.parameters.clear();
      Matches(route.pattern, path, &match.parameters);
      match.route = &route;
      return match;
    }
    match.allowed += (match.allowed.empty() ? "" : ", ") + route.method;
  }
  return match;
}

}  // namespace pointsman
