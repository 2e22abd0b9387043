#include "daemon/api/context.h"

#include <ctime>
#include <nlohmann/json.hpp>

namespace pointsman {

int64_t NowUnixSeconds() { return static_cast<int64_t>(std::time(nullptr)); }

HttpResponse JsonResponse(const nlohmann::json& body, int status) {
  HttpResponse response;
  response.status = status;
  response.body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return response;
}

void AddRoutes(PathRouter& router, ApiContext& context, std::initializer_list<ApiRoute> routes) {
  for (const ApiRoute& route : routes) {
    router.Add({.method = route.method,
                .pattern = route.pattern,
                .access = route.access,
                .handler = [&context, handle = route.handle](const HttpRequest& request) {
                  return handle(context, request);
                }});
  }
}

std::variant<MemoryUse, ApiError> FindMemory(const ApiContext& context, const Principal& principal,
                                             const std::string& id) {
  Result<MemoryUse> found = context.memories.Find(id);
  if (found.ok() && principal.MayUse(id)) return std::move(found).value();
  return ApiError{ApiCode::kNotFound, "memory '" + id + "': not loaded; GET /v1/memories lists those that are",
                  "memory"};
}

}  // namespace pointsman
