// Is it alive, is it ready, what has it done: /healthz, /readyz, /metrics, /v1/routing.
#include <algorithm>
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/json_body.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

asio::awaitable<HttpResponse> Health(ApiContext& context, const HttpRequest&) {
  co_return JsonResponse({{"status", "ok"}, {"version", context.options.version}});
}

asio::awaitable<HttpResponse> Ready(ApiContext& context, const HttpRequest&) {
  if (context.draining || !context.ready) {
    HttpResponse response = JsonResponse({{"status", context.draining ? "draining" : "loading"}}, 503);
    response.headers.emplace_back("Retry-After", "5");
    co_return response;
  }
  co_return JsonResponse({{"status", "ready"}});
}

asio::awaitable<HttpResponse> Metrics(ApiContext& context, const HttpRequest& http) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  // The names of other memories, and how much they are used, are another tenant's.
  const auto shown = [&](const Labels& labels) {
    return std::ranges::all_of(
        labels, [&](const auto& label) { return label.first != "memory" || http.principal.MayUse(label.second); });
  };
  response.body = co_await OnCompute(context.compute, [&] { return context.metrics.Render(shown); });
  co_return response;
}

json Switches(const ApiContext& context) {
  return {{"disabled", context.disabled.load()}, {"shadow", context.shadow.load()}};
}

asio::awaitable<HttpResponse> ShowRouting(ApiContext& context, const HttpRequest&) {
  co_return JsonResponse(Switches(context));
}

// The global kill switch and shadow mode. Audited before it acts.
asio::awaitable<HttpResponse> SetRouting(ApiContext& context, const HttpRequest& http) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) co_return ErrorResponse(*error);
  FieldReader fields(std::get<json>(parsed));
  const bool disabled = fields.Flag("disabled", context.disabled), shadow = fields.Flag("shadow", context.shadow);
  fields.Finish();
  if (fields.error()) co_return ErrorResponse(*fields.error());
  co_return co_await OnCompute(context.compute, [&] {
    context.log.Audit(http.principal.name, "routing.set", {{"disabled", disabled}, {"shadow", shadow}}, "ok");
    context.disabled = disabled;
    context.shadow = shadow;
    context.engine.SetKillSwitch(disabled);
    return JsonResponse(Switches(context));
  });
}

}  // namespace

void AddHealthRoutes(PathRouter& router, ApiContext& context) {
  AddRoutes(router, context,
            {{"GET", "/healthz", Access::kPublic, Health},
             {"GET", "/readyz", Access::kPublic, Ready},
             {"GET", "/metrics", Access::kRead, Metrics},
             {"GET", "/v1/routing", Access::kRead, ShowRouting},
             {"PATCH", "/v1/routing", Access::kAdmin, SetRouting}});
}

}  // namespace pointsman
