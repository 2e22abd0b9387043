// POST /v1/memories/{id}/search: what in the memory is nearest to a text, or to a router input of the caller's engine.
//
// A text is read by the frozen model; each of its tokens is searched for at one MoE layer, and the best hits of all of
// them are one list. The context gate plays no part: it says whether routing would act on the text, beside the hits.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <utility>

#include "adapt/sequences.h"
#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/api/texts.h"
#include "daemon/json_body.h"
#include "memory/layer_index.h"
#include "models/row_sources.h"
#include "router/confidence.h"
#include "router/router.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

constexpr int64_t kMostNeighbours = 100;
constexpr size_t kMostText = 1 << 16;

// Keeps the router's input at one layer.
class InputsAt : public RoutingHook {
 public:
  explicit InputsAt(int layer) : layer_(layer) {}
  void BeginStep(const StepInfo&) override {}
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    if (layer == layer_) {
      const std::span values(hidden.const_data_ptr<float>(), hidden.numel());
      inputs_.assign(values.begin(), values.end());
    }
    return logits;
  }
  const std::vector<float>& inputs() const { return inputs_; }

 private:
  const int layer_;
  std::vector<float> inputs_;
};

std::vector<float> InputsOf(const MoeModel& model, std::span<const int32_t> tokens, int layer) {
  const at::NoGradGuard no_grad;
  Sequence sequence;
  sequence.inputs.assign(tokens.begin(), tokens.end());
  sequence.targets.assign(tokens.size(), 0);
  sequence.mask.assign(tokens.size(), 0);
  const std::vector<uint32_t> members{0};
  InputsAt hook(layer);
  model.Forward(MakeBatch(std::span(&sequence, 1), members).ids, {.hook = &hook, .last_only = true});
  return hook.inputs();
}

// G after the text; nothing is routed.
float GateAfter(const std::shared_ptr<const RoutingTables>& tables, std::span<const int32_t> tokens) {
  Router router;
  const std::vector<uint32_t> slots(tokens.size(), router.AddSlot({.tables = tables, .session = nullptr}));
  std::vector<uint32_t> positions(tokens.size());
  for (uint32_t i = 0; i < positions.size(); ++i) positions[i] = i;
  const Result<Step> step = router.BeginStep(slots, positions, tokens);
  return step.ok() && !step.value().gate.empty() ? step.value().gate.back() : 0;
}

struct Query {
  const LayerView* layer = nullptr;
  std::vector<float> inputs;  // [T, H]
  std::optional<float> gate;  // of a text
  size_t k = 10;
};

std::variant<Query, ApiError> ParseQuery(const ApiContext& context, const MemoryUse& use, const HttpRequest& http) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
  FieldReader fields(std::get<json>(parsed));
  const RoutingTables& tables = *use.loaded->tables;
  const std::vector<LayerView>& layers = tables.layers;
  Query query;
  query.k = static_cast<size_t>(fields.Integer("k", 10, 1, kMostNeighbours));
  const bool by_vector = fields.Has("vector");
  if (by_vector && fields.Has("text")) fields.Fail("vector", "give a text or a vector, not both");
  if (!by_vector && !fields.Has("text")) fields.Fail("text", "give a text, or a vector and its layer");
  if (by_vector) fields.Require("layer");
  // The middle layer: early ones know the words only, late ones are about the next word.
  const int64_t usual = layers.empty() ? 0 : layers[layers.size() / 2].layer;
  const int64_t wanted = fields.Integer("layer", usual, 0, 1 << 16);
  const auto at = std::ranges::find(layers, wanted, &LayerView::layer);
  if (at == layers.end()) {
    fields.Fail("layer", fmt::format("this memory has none at {}", wanted));
  } else {
    query.layer = &*at;
  }
  std::vector<int32_t> tokens;
  if (by_vector) {
    query.inputs = fields.Floats("vector", 1 << 16);
    if (query.layer && query.inputs.size() != query.layer->keys.hidden) {
      fields.Fail("vector", fmt::format("{} values; the model's router inputs have {}", query.inputs.size(),
                                        query.layer->keys.hidden));
    }
  } else {
    const std::string text = fields.RequiredText("text", kMostText);
    if (!fields.error()) tokens = context.model.tokenizer().Encode(text);
    const int64_t most = context.model.config().max_positions;
    if (!fields.error() && (tokens.empty() || static_cast<int64_t>(tokens.size()) > most)) {
      fields.Fail("text", fmt::format("{} tokens; give 1 to {}", tokens.size(), most), ApiCode::kContextExceeded);
    }
  }
  fields.Finish();
  if (fields.error()) return *fields.error();
  if (!by_vector) {
    query.gate = GateAfter(use.loaded->tables, tokens);
    query.inputs = InputsOf(context.model, tokens, query.layer->layer);
  }
  return query;
}

struct Hit {
  size_t token = 0;  // of the query
  Neighbour neighbour;
};

// The k best over all tokens of the query, a row of the memory once. The first token of a longer text says nothing: it
// has seen no other, and is near the first of every document.
std::vector<Hit> Hits(const Query& query, std::span<const Neighbour> found, size_t per_token) {
  std::vector<Hit> hits;
  const size_t tokens = found.size() / per_token;
  for (size_t t = tokens > 1 ? 1 : 0; t < tokens; ++t) {
    for (const Neighbour& neighbour : FoundNeighbours(found.subspan(t * per_token, per_token))) {
      hits.push_back({t, neighbour});
    }
  }
  std::ranges::stable_sort(hits,
                           [](const Hit& a, const Hit& b) { return a.neighbour.similarity > b.neighbour.similarity; });
  std::set<uint32_t> rows;
  std::erase_if(hits, [&](const Hit& hit) { return !rows.insert(hit.neighbour.row).second; });
  if (hits.size() > query.k) hits.resize(query.k);
  return hits;
}

HttpResponse SearchNow(ApiContext& context, const HttpRequest& http, const MemoryUse& use) {
  const auto parsed = ParseQuery(context, use, http);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  const auto& query = std::get<Query>(parsed);
  const LayerView& layer = *query.layer;
  const size_t tokens = query.inputs.size() / layer.keys.hidden;
  const auto per_token = std::max<size_t>(query.k, static_cast<size_t>(std::max(1, layer.calibration.k)));
  std::vector<Neighbour> found(tokens * per_token);
  SearchExact(layer.keys, query.inputs, static_cast<uint32_t>(per_token), found);
  // What the router would look at for the last token.
  const auto last = FoundNeighbours(std::span(found).last(per_token));
  const auto routed = last.first(std::min(last.size(), static_cast<size_t>(std::max(0, layer.calibration.k))));
  const auto texts = context.texts.Of(*use.loaded);
  json list = json::array();
  for (const Hit& hit : Hits(query, found, per_token)) {
    RowTrace row;
    row.layer = layer.layer;
    row.neighbours = {hit.neighbour};
    json item = {{"similarity", hit.neighbour.similarity}, {"document", nullptr}, {"position", nullptr}};
    if (query.gate) item["token_position"] = hit.token;
    for (const RowSource& source : SourcesOf(*use.loaded->tables, row, texts.get())) {
      item["document"] = source.document;
      item["position"] = source.position;
      if (!source.excerpt.empty()) item["excerpt"] = source.excerpt;
    }
    list.push_back(std::move(item));
  }
  return JsonResponse({{"memory", use.loaded->id},
                       {"generation", use.loaded->generation},
                       {"layer", layer.layer},
                       {"neighbours", std::move(list)},
                       {"confidence", Confidence(layer.calibration.confidence, layer.calibration.tau2, routed)},
                       {"gate", query.gate ? json(*query.gate) : json()}});
}

struct SearchService {
  explicit SearchService(ApiContext& c) : context(c) {}
  ApiContext& context;
  std::atomic<uint32_t> running{0};  // each may read a whole context with the model: a few at once
};

asio::awaitable<HttpResponse> Search(std::shared_ptr<SearchService> service, const HttpRequest& http) {
  const auto found = FindMemory(service->context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  if (service->running.fetch_add(1) >= 2 * service->context.options.compute_threads) {
    service->running.fetch_sub(1);
    ApiError busy{ApiCode::kOverloaded, "too many searches at once; try again", {}, 1};
    co_return ErrorResponse(busy);
  }
  HttpResponse response = co_await OnCompute(
      service->context.compute, [&] { return SearchNow(service->context, http, std::get<MemoryUse>(found)); });
  service->running.fetch_sub(1);
  co_return response;
}

}  // namespace

void AddSearchRoutes(PathRouter& router, ApiContext& context) {
  const auto service = std::make_shared<SearchService>(context);
  router.Add({.method = "POST",
              .pattern = "/v1/memories/{id}/search",
              .access = Access::kRead,
              .handler = [service](const HttpRequest& request) { return Search(service, request); }});
}

}  // namespace pointsman
