// /v1/sessions: a client's rerouting vectors between requests. A session is its key's own: to others it does not exist.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "adapt/rerouting.h"
#include "adapt/session_file.h"
#include "daemon/api/await.h"
#include "daemon/api/binding.h"
#include "daemon/api/completion_request.h"
#include "daemon/api/context.h"
#include "daemon/json_body.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

constexpr size_t kMostText = 1 << 20;

json EventJson(const SessionEvent& event) {
  return {{"time", event.unix_s},
          {"tokens", event.tokens},
          {"loss_before", event.loss_before},
          {"loss_after", event.loss_after},
          {"kept", event.kept}};
}

json SessionJson(const ApiContext& context, const Session& session) {
  json layers = json::array();
  if (session.vectors) {
    for (size_t layer = 0; layer < session.vectors->by_layer.size(); ++layer) {
      const std::vector<float>& vector = session.vectors->by_layer[layer];
      if (vector.empty()) continue;
      double square = 0;
      for (const float v : vector) square += static_cast<double>(v) * v;
      layers.push_back({{"layer", layer}, {"norm", std::sqrt(square)}});
    }
  }
  json events = json::array();
  for (const SessionEvent& event : session.events) events.push_back(EventJson(event));
  return {{"id", session.id},
          {"object", "session"},
          {"memory", session.memory.empty() ? json() : json(session.memory)},
          {"created", session.created_unix_s},
          {"last_used", session.used_unix_s},
          {"expires", session.used_unix_s + context.options.sessions.idle_timeout_s},
          {"tokens", session.tokens},
          {"layers", std::move(layers)},
          {"events", std::move(events)}};
}

ApiError NoSuchSession(const Error& error) { return {ApiCode::kNotFound, error.message, "session"}; }

// The tokens of "text" or "tokens", at least two and no more than the model's context.
std::variant<std::vector<int32_t>, ApiError> ContextOf(const ApiContext& context, FieldReader& fields) {
  const MoeConfig& config = context.model.config();
  std::vector<int32_t> tokens;
  if (fields.Has("tokens")) {
    for (const int64_t id : fields.Integers("tokens", config.max_positions, 0, config.vocab_size - 1)) {
      tokens.push_back(static_cast<int32_t>(id));
    }
  } else {
    tokens = context.model.tokenizer().Encode(fields.RequiredText("text", kMostText));
  }
  if (fields.error()) return *fields.error();
  if (tokens.size() < 2 || static_cast<int64_t>(tokens.size()) > config.max_positions) {
    return ApiError{
        ApiCode::kContextExceeded,
        fmt::format("text: {} tokens; a session learns from 2 to {} at a time", tokens.size(), config.max_positions),
        "text"};
  }
  return tokens;
}

// The memory's mean retrieved change over a text: where rerouting with this memory begins best (docs/decisions/007).
Result<std::shared_ptr<const SessionVectors>> WarmStart(const MoeModel& model, const BoundRouting& bound,
                                                        std::vector<int32_t> tokens) {
  const at::NoGradGuard no_grad;
  Sequence sequence;
  sequence.inputs = tokens;
  sequence.targets.assign(tokens.size(), 0);
  sequence.mask.assign(tokens.size(), 1);  // the mean is over the tokens that count
  const std::vector<uint32_t> members{0};
  const Batch batch = MakeBatch(std::span(&sequence, 1), members);
  POINTSMAN_TRY(const VectorBatch mean, MeanRetrieved(model, batch, {bound.memory->loaded->tables, bound.strength}));
  return std::make_shared<const SessionVectors>(SessionOf(mean, 0));
}

std::variant<std::shared_ptr<const SessionVectors>, ApiError> ImportVectors(const ApiContext& context,
                                                                            const std::string& text) {
  Result<SessionVectors> vectors =
      SessionFromJson(text, "vectors", context.model.config(), context.model.fingerprint());
  if (vectors.ok()) return std::make_shared<const SessionVectors>(std::move(vectors).value());
  // The client's own bytes: what is wrong with them is theirs to know.
  if (vectors.error().code == ErrorCode::kMismatch) return FromError(vectors.error(), "vectors");
  return ApiError{ApiCode::kInvalidValue, vectors.error().message, "vectors"};
}

struct Creation {
  std::string memory;
  std::shared_ptr<const SessionVectors> start;
};

std::variant<Creation, ApiError> PrepareCreation(ApiContext& context, const HttpRequest& http) {
  json body = json::object();
  if (!http.body.empty()) {
    auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
    if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
    body = std::move(std::get<json>(parsed));
  }
  FieldReader fields(body);
  Creation creation;
  creation.memory = fields.Text("memory", {}, 64);
  const json* warm = fields.Member("warm_start");
  const json* vectors = fields.Member("vectors");
  fields.Finish();
  const bool warms = warm && !warm->is_null(), imports = vectors && !vectors->is_null();
  if (warms && imports) fields.Fail("vectors", "give vectors or a warm_start, not both");
  if (fields.error()) return *fields.error();
  auto bound = BindRouting(context, http.principal, {.memory = creation.memory, .session = {}, .strength = {}});
  if (const auto* error = std::get_if<ApiError>(&bound)) return *error;
  const auto& routing = std::get<BoundRouting>(bound);
  if (imports) {
    auto imported = ImportVectors(context, vectors->dump());
    if (const auto* error = std::get_if<ApiError>(&imported)) return *error;
    creation.start = std::get<std::shared_ptr<const SessionVectors>>(imported);
  } else if (warms) {
    if (!routing.memory) {
      return ApiError{ApiCode::kUnprocessable, "warm_start: there is no memory to start from; name one", "warm_start"};
    }
    FieldReader inner(*warm, "warm_start.");
    auto tokens = ContextOf(context, inner);
    inner.Finish();
    if (inner.error()) return *inner.error();
    if (const auto* error = std::get_if<ApiError>(&tokens)) return *error;
    auto start = WarmStart(context.model, routing, std::move(std::get<std::vector<int32_t>>(tokens)));
    if (!start.ok()) return FromError(start.error(), "warm_start");
    creation.start = std::move(start).value();
  }
  return creation;
}

asio::awaitable<HttpResponse> Create(ApiContext& context, const HttpRequest& http) {
  auto prepared = co_await OnCompute(context.compute, [&] { return PrepareCreation(context, http); });
  if (const auto* error = std::get_if<ApiError>(&prepared)) co_return ErrorResponse(*error);
  const auto& creation = std::get<Creation>(prepared);
  const Result<Session> session =
      context.sessions.Create(http.principal.name, creation.memory, creation.start, NowUnixSeconds());
  if (!session.ok()) {
    co_return ErrorResponse({ApiCode::kRateLimited, session.error().message, {}, 60});
  }
  HttpResponse response = JsonResponse(SessionJson(context, session.value()), 201);
  response.headers.emplace_back("Location", "/v1/sessions/" + session.value().id);
  co_return response;
}

asio::awaitable<HttpResponse> List(ApiContext& context, const HttpRequest& http) {
  json list = json::array();
  for (const Session& session : context.sessions.OfOwner(http.principal.name)) {
    list.push_back(SessionJson(context, session));
  }
  co_return JsonResponse({{"object", "list"}, {"data", std::move(list)}});
}

asio::awaitable<HttpResponse> Show(ApiContext& context, const HttpRequest& http) {
  const auto session = context.sessions.Find(http.principal.name, http.parameters.at("id"), NowUnixSeconds());
  if (!session.ok()) co_return ErrorResponse(NoSuchSession(session.error()));
  co_return JsonResponse(SessionJson(context, session.value()));
}

asio::awaitable<HttpResponse> Remove(ApiContext& context, const HttpRequest& http) {
  const std::string& id = http.parameters.at("id");
  const Status removed = context.sessions.Remove(http.principal.name, id);
  if (!removed.ok()) co_return ErrorResponse(NoSuchSession(removed.error()));
  co_return JsonResponse({{"id", id}, {"object", "session.deleted"}, {"deleted", true}});
}

struct Feeding {
  LearnTask task;
  uint64_t tokens = 0;
};

std::variant<Feeding, ApiError> PrepareFeeding(ApiContext& context, const HttpRequest& http) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
  FieldReader fields(std::get<json>(parsed));
  auto rewire = ParseRewire(fields.Has("rewire") ? fields.Member("rewire") : nullptr, "rewire.");
  auto tokens = ContextOf(context, fields);
  fields.Finish();
  if (fields.error()) return *fields.error();
  if (const auto* error = std::get_if<ApiError>(&tokens)) return *error;
  if (const auto* error = std::get_if<ApiError>(&rewire)) return *error;
  auto bound =
      BindRouting(context, http.principal, {.memory = {}, .session = http.parameters.at("id"), .strength = {}});
  if (const auto* error = std::get_if<ApiError>(&bound)) return *error;
  Feeding feeding;
  feeding.task.context = std::move(std::get<std::vector<int32_t>>(tokens));
  feeding.task.binding = std::get<BoundRouting>(bound).binding();
  feeding.task.rerouting = std::get<std::optional<RewireFields>>(rewire).value_or(RewireFields()).rerouting;
  feeding.tokens = feeding.task.context.size();
  return feeding;
}

asio::awaitable<HttpResponse> Feed(ApiContext& context, const HttpRequest& http) {
  const auto executor = co_await asio::this_coro::executor;
  auto prepared = co_await OnCompute(context.compute, [&] { return PrepareFeeding(context, http); });
  if (const auto* error = std::get_if<ApiError>(&prepared)) co_return ErrorResponse(*error);
  auto& feeding = std::get<Feeding>(prepared);
  using Learned = Result<LearnTask::Done>;
  const auto mailbox = std::make_shared<Mailbox<Learned>>(executor, 1);
  feeding.task.on_done = [mailbox](Learned done) { mailbox->Send(std::move(done)); };
  const Result<uint64_t> id = context.engine.Submit(std::move(feeding.task));
  if (!id.ok()) {
    co_return ErrorResponse(id.error().code == ErrorCode::kBusy
                                ? ApiError{ApiCode::kOverloaded, id.error().message, {}, 1}
                                : FromError(id.error()));
  }
  const auto learned = co_await mailbox->Receive();
  if (!learned) co_return ErrorResponse({ApiCode::kInternal, "the engine stopped"});
  if (!learned->ok()) co_return ErrorResponse(FromError(learned->error()));
  LearnTask::Done done = std::move(*learned).value();
  const SessionEvent event{.unix_s = NowUnixSeconds(),
                           .tokens = feeding.tokens,
                           .loss_before = done.loss_before,
                           .loss_after = done.loss_after,
                           .kept = done.kept};
  const Status kept =
      context.sessions.Update(http.principal.name, http.parameters.at("id"),
                              std::make_shared<const SessionVectors>(std::move(done.vectors)), event, NowUnixSeconds());
  if (!kept.ok()) co_return ErrorResponse(NoSuchSession(kept.error()));
  json body = EventJson(event);
  body["seconds"] = done.seconds;
  co_return JsonResponse(body);
}

asio::awaitable<HttpResponse> Export(ApiContext& context, const HttpRequest& http) {
  const auto session = context.sessions.Find(http.principal.name, http.parameters.at("id"), NowUnixSeconds());
  if (!session.ok()) co_return ErrorResponse(NoSuchSession(session.error()));
  HttpResponse response;
  response.body =
      SessionToJson(session.value().vectors ? *session.value().vectors : SessionVectors(), context.model.fingerprint());
  co_return response;
}

asio::awaitable<HttpResponse> Import(ApiContext& context, const HttpRequest& http) {
  auto imported = co_await OnCompute(context.compute, [&] {
    auto parsed = ParseJsonBody(http.body, http.Header("content-type"));  // limits first, then the file's own reader
    if (const auto* error = std::get_if<ApiError>(&parsed)) {
      return std::variant<std::shared_ptr<const SessionVectors>, ApiError>(*error);
    }
    return ImportVectors(context, http.body);
  });
  if (const auto* error = std::get_if<ApiError>(&imported)) co_return ErrorResponse(*error);
  constexpr double kUnmeasured = std::numeric_limits<double>::quiet_NaN();
  const SessionEvent event{
      .unix_s = NowUnixSeconds(), .tokens = 0, .loss_before = kUnmeasured, .loss_after = kUnmeasured, .kept = true};
  const Status kept =
      context.sessions.Update(http.principal.name, http.parameters.at("id"),
                              std::get<std::shared_ptr<const SessionVectors>>(imported), event, NowUnixSeconds());
  if (!kept.ok()) co_return ErrorResponse(NoSuchSession(kept.error()));
  const auto session = context.sessions.Find(http.principal.name, http.parameters.at("id"), NowUnixSeconds());
  if (!session.ok()) co_return ErrorResponse(NoSuchSession(session.error()));
  co_return JsonResponse(SessionJson(context, session.value()));
}

}  // namespace

void AddSessionRoutes(PathRouter& router, ApiContext& context) {
  AddRoutes(router, context,
            {{"POST", "/v1/sessions", Access::kWrite, Create},
             {"GET", "/v1/sessions", Access::kRead, List},
             {"GET", "/v1/sessions/{id}", Access::kRead, Show},
             {"DELETE", "/v1/sessions/{id}", Access::kWrite, Remove},
             {"POST", "/v1/sessions/{id}/context", Access::kWrite, Feed},
             {"GET", "/v1/sessions/{id}/vectors", Access::kRead, Export},
             {"PUT", "/v1/sessions/{id}/vectors", Access::kWrite, Import}});
}

}  // namespace pointsman
