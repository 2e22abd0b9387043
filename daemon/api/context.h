// What the handlers of the API share: the parts of a running daemon, borrowed. Lives as long as the server does.
#pragma once

#include <atomic>
#include <chrono>
#include <initializer_list>
#include <memory>
#include <string>

#include "daemon/api_error.h"
#include "daemon/engine/engine.h"
#include "daemon/http/path_router.h"
#include "daemon/log.h"
#include "daemon/memories.h"
#include "daemon/metrics.h"
#include "daemon/server.h"
#include "daemon/sessions.h"
#include "models/model.h"

namespace boost::asio {
class thread_pool;
}

namespace pointsman {

class DocumentTextCache;
struct ChatFormat;
class JobRunner;

struct ApiContext {
  const DaemonOptions& options;
  const MoeModel& model;
  std::string model_id;  // name of the model's directory
  int64_t started_unix_s = 0;
  Engine& engine;
  MemoryRegistry& memories;
  SessionStore& sessions;
  Log& log;
  MetricRegistry& metrics;
  boost::asio::thread_pool& compute;  // searches, routes, files: what must not hold a network thread
  DocumentTextCache& texts;
  const ChatFormat& chat;                            // how messages become the model's text
  JobRunner* jobs = nullptr;                         // null: the server runs none (--jobs)
  std::atomic<bool> shadow{false}, disabled{false};  // global switches
  std::atomic<bool> ready{false}, draining{false};
};

// A route whose handler needs the context alone.
struct ApiRoute {
  const char* method;
  const char* pattern;
  Access access;
  boost::asio::awaitable<HttpResponse> (*handle)(ApiContext&, const HttpRequest&);
};
void AddRoutes(PathRouter& router, ApiContext& context, std::initializer_list<ApiRoute> routes);

// One function a resource; each adds its routes.
void AddHealthRoutes(PathRouter& router, ApiContext& context);
void AddModelRoutes(PathRouter& router, ApiContext& context);
void AddCompletionRoutes(PathRouter& router, ApiContext& context);
void AddSessionRoutes(PathRouter& router, ApiContext& context);
void AddMemoryRoutes(PathRouter& router, ApiContext& context);
void AddDocumentRoutes(PathRouter& router, ApiContext& context);
void AddSearchRoutes(PathRouter& router, ApiContext& context);
void AddDiagnosisRoutes(PathRouter& router, ApiContext& context);
void AddSnapshotRoutes(PathRouter& router, ApiContext& context);
void AddRouteRoutes(PathRouter& router, ApiContext& context);
void AddJobRoutes(PathRouter& router, ApiContext& context);

int64_t NowUnixSeconds();

HttpResponse JsonResponse(const nlohmann::json& body, int status = 200);

// The memory `id` if the caller may use it; kNotFound with the same words whether it is hidden or absent.
std::variant<MemoryUse, ApiError> FindMemory(const ApiContext& context, const Principal& principal,
                                             const std::string& id);

}  // namespace pointsman
