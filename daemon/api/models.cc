// GET /v1/models and POST /v1/tokenize: what is hosted, and how it reads text.
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/chat.h"
#include "daemon/api/context.h"
#include "daemon/json_body.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

json ModelJson(const ApiContext& context) {
  const MoeConfig& config = context.model.config();
  const Fingerprint& print = context.model.fingerprint();
  return {{"id", context.model_id},
          {"object", "model"},
          {"created", context.started_unix_s},
          {"owned_by", "pointsman"},
          {"meta",
           {{"architecture", print.architecture},
            {"layers", config.num_layers},
            {"experts", config.num_experts},
            {"experts_per_token", config.experts_per_token},
            {"hidden_size", config.hidden_size},
            {"vocab_size", config.vocab_size},
            {"context", config.max_positions},
            {"fingerprint",
             {{"config_sha256", print.config_sha256},
              {"router_sha256", print.router_sha256},
              {"tokenizer_sha256", print.tokenizer_sha256}}}}}};
}

asio::awaitable<HttpResponse> List(ApiContext& context, const HttpRequest&) {
  co_return JsonResponse({{"object", "list"}, {"data", json::array({ModelJson(context)})}});
}

asio::awaitable<HttpResponse> Show(ApiContext& context, const HttpRequest& http) {
  if (http.parameters.at("id") != context.model_id) {
    co_return ErrorResponse({ApiCode::kNotFound,
                             "model '" + http.parameters.at("id") + "': this server has '" + context.model_id + "'",
                             "model"});
  }
  co_return JsonResponse(ModelJson(context));
}

HttpResponse TokenizeBody(ApiContext& context, const HttpRequest& http) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  const auto& body = std::get<json>(parsed);
  FieldReader fields(body);
  fields.Text("model", {}, 256);
  std::vector<int32_t> tokens;
  fields.Member("chat_template_kwargs");
  if (const json* messages = fields.Member("messages"); messages && !messages->is_null()) {
    auto encoded = ChatEncoderOf(context)(*messages, body);
    if (const auto* error = std::get_if<ApiError>(&encoded)) return ErrorResponse(*error);
    tokens = std::move(std::get<std::vector<int32_t>>(encoded));
  } else {
    tokens = context.model.tokenizer().Encode(fields.RequiredText("text", 1 << 20));
  }
  const bool pieces = fields.Flag("pieces", false);
  fields.Finish();
  if (fields.error()) return ErrorResponse(*fields.error());
  json answer = {{"count", tokens.size()}, {"tokens", tokens}};
  if (pieces) {
    answer["pieces"] = json::array();
    for (const int32_t token : tokens) {
      answer["pieces"].push_back(context.model.tokenizer().Decode(std::span(&token, 1), false));
    }
  }
  return JsonResponse(answer);
}

asio::awaitable<HttpResponse> Tokenize(ApiContext& context, const HttpRequest& http) {
  co_return co_await OnCompute(context.compute, [&] { return TokenizeBody(context, http); });
}

}  // namespace

void AddModelRoutes(PathRouter& router, ApiContext& context) {
  AddRoutes(router, context,
            {{"GET", "/v1/models", Access::kRead, List},
             {"GET", "/v1/models/{id}", Access::kRead, Show},
             {"POST", "/v1/tokenize", Access::kRead, Tokenize}});
}

}  // namespace pointsman
