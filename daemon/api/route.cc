// POST /v1/route: the router for engines elsewhere. Stateless: rows in, logits out. Bytes of the binary form:
// schemas/route_binary.md.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>

#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/json_body.h"
#include "daemon/wait_admission.h"
#include "memory/stopwatch.h"
#include "router/router.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the binary form is little-endian");

constexpr const char* kBinary = "application/octet-stream";
constexpr char kMagic[4] = {'P', 'M', 'R', '1'};
constexpr uint32_t kHasGate = 1, kHasTokens = 2;
constexpr uint32_t kMostRows = 65'536;

struct BinaryHeader {
  char magic[4];
  uint32_t layer, rows, hidden, experts, flags;
  float strength;
  uint32_t reserved;
};
static_assert(sizeof(BinaryHeader) == 32);

struct RouteRows {
  int32_t layer = 0;
  uint32_t rows = 0, hidden_size = 0, experts = 0;
  float strength = 1;
  std::span<const float> hidden;                // [rows, H]
  std::span<const float> gate;                  // [rows] or empty: 1
  std::span<const int32_t> tokens;              // [rows] or empty
  std::vector<float> logits;                    // [rows, E], changed in place
  std::vector<float> owned_hidden, owned_gate;  // of the JSON form
  std::vector<int32_t> owned_tokens;
};

ApiError Invalid(std::string message, std::string param = {}) {
  return {ApiCode::kInvalidValue, std::move(message), std::move(param)};
}

const LayerView* LayerOf(const RoutingTables& tables, int32_t layer) {
  const auto found = std::ranges::lower_bound(tables.layers, layer, {}, &LayerView::layer);
  return found != tables.layers.end() && found->layer == layer ? &*found : nullptr;
}

template <typename T>
std::span<const T> TakeArray(std::string_view& rest, size_t count) {
  const std::span<const T> taken(reinterpret_cast<const T*>(rest.data()), count);
  rest.remove_prefix(count * sizeof(T));
  return taken;
}

// Views into `body`, which must outlive them. Its allocation is aligned for floats, and so is what follows the header.
std::variant<RouteRows, ApiError> ParseBinary(const std::string& body) {
  BinaryHeader header;
  if (body.size() < sizeof(header)) return Invalid("body: shorter than its header of 32 bytes");
  std::memcpy(&header, body.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return Invalid("body: does not begin with PMR1");
  if (header.reserved != 0 || (header.flags & ~(kHasGate | kHasTokens)) != 0) {
    return Invalid("body: unknown flags; this server knows gate (1) and tokens (2)");
  }
  if (header.rows == 0 || header.rows > kMostRows || header.hidden > 1u << 20 || header.experts > 1u << 16) {
    return Invalid(fmt::format("body: {} rows of {} and {} values; rows are 1..{}", header.rows, header.hidden,
                               header.experts, kMostRows));
  }
  const bool gate = header.flags & kHasGate, tokens = header.flags & kHasTokens;
  const uint64_t rows = header.rows;
  const uint64_t expected =
      sizeof(header) + 4 * (rows * header.hidden + rows * header.experts + rows * gate + rows * tokens);
  if (body.size() != expected) {
    return Invalid(fmt::format("body: {} bytes, its header announces {}", body.size(), expected));
  }
  RouteRows r;
  r.layer = static_cast<int32_t>(std::min<uint32_t>(header.layer, 1u << 20));
  r.rows = header.rows;
  r.hidden_size = header.hidden;
  r.experts = header.experts;
  r.strength = header.strength;
  std::string_view rest = std::string_view(body).substr(sizeof(header));
  r.hidden = TakeArray<float>(rest, rows * header.hidden);
  const auto logits = TakeArray<float>(rest, rows * header.experts);
  r.logits.assign(logits.begin(), logits.end());
  if (gate) r.gate = TakeArray<float>(rest, rows);
  if (tokens) r.tokens = TakeArray<int32_t>(rest, rows);
  return r;
}

// [[..], ..] of equal lengths into one array; the row length, or 0 after an error.
uint32_t ReadMatrix(const json* value, const char* name, std::vector<float>& out, FieldReader& fields) {
  const auto fail = [&](const std::string& what) {
    fields.Fail(name, what);
    return 0u;
  };
  if (!value || !value->is_array() || value->empty() || value->size() > kMostRows) {
    return fail(fmt::format("give 1 to {} rows, each a list of numbers", kMostRows));
  }
  const size_t width = value->front().is_array() ? value->front().size() : 0;
  if (width == 0) return fail("a row is an empty list or none");
  out.reserve(value->size() * width);
  for (const json& row : *value) {
    if (!row.is_array() || row.size() != width) return fail("rows have different lengths");
    for (const json& number : row) {
      if (!number.is_number()) return fail("holds something that is no number");
      out.push_back(number.get<float>());
    }
  }
  return static_cast<uint32_t>(width);
}

std::variant<RouteRows, ApiError> ParseJson(const HttpRequest& http, std::string* memory) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
  FieldReader fields(std::get<json>(parsed));
  RouteRows r;
  *memory = fields.Text("memory", *memory, 64);
  r.layer = static_cast<int32_t>(fields.Integer("layer", -1, 0, 1 << 20));
  if (r.layer < 0) fields.Fail("layer", "missing; give the number of the MoE layer");
  r.strength = static_cast<float>(fields.Real("strength", 1, 0, 1));
  r.hidden_size = ReadMatrix(fields.Member("hidden"), "hidden", r.owned_hidden, fields);
  r.experts = ReadMatrix(fields.Member("logits"), "logits", r.logits, fields);
  if (!fields.error()) {
    r.rows = static_cast<uint32_t>(r.owned_hidden.size() / r.hidden_size);
    if (r.logits.size() != size_t{r.rows} * r.experts) fields.Fail("logits", "not as many rows as hidden");
  }
  if (const json* gate = fields.Member("gate"); gate && !gate->is_null()) {
    if (!gate->is_array() || gate->size() != r.rows) {
      fields.Fail("gate", "give one number a row");
    } else {
      for (const json& g : *gate) r.owned_gate.push_back(g.is_number() ? g.get<float>() : -1.0f);
    }
  }
  for (const int64_t token : fields.Integers("token", kMostRows, -1, 1 << 30)) {
    r.owned_tokens.push_back(static_cast<int32_t>(token));
  }
  if (!r.owned_tokens.empty() && r.owned_tokens.size() != r.rows) fields.Fail("token", "give one id a row");
  fields.Finish();
  if (fields.error()) return *fields.error();
  r.hidden = r.owned_hidden;
  r.gate = r.owned_gate;
  r.tokens = r.owned_tokens;
  return r;
}

std::optional<ApiError> CheckShapes(const RouteRows& r, const LayerView* layer) {
  if (!layer) return Invalid(fmt::format("layer: this memory has none at {}", r.layer), "layer");
  if (r.hidden_size != layer->keys.hidden) {
    return Invalid(
        fmt::format("hidden: rows of {} values, the memory's model has {}", r.hidden_size, layer->keys.hidden),
        "hidden");
  }
  if (r.experts != layer->experts) {
    return Invalid(fmt::format("logits: rows of {} values, the layer has {} experts", r.experts, layer->experts),
                   "logits");
  }
  if (!(r.strength >= 0 && r.strength <= 1)) return Invalid("strength: outside of 0..1", "strength");
  for (const float g : r.gate) {
    if (!(g >= 0 && g <= 1)) return Invalid("gate: outside of 0..1", "gate");
  }
  return std::nullopt;
}

struct Routed {
  std::vector<uint8_t> written;  // [rows]
  std::optional<ApiError> error;
};

Routed RunRoute(RouteRows& r, const MemoryUse& use, bool shadow) {
  Routed routed;
  if (auto error = CheckShapes(r, LayerOf(*use.loaded->tables, r.layer))) {
    routed.error = std::move(error);
    return routed;
  }
  Router router;
  const uint32_t slot = router.AddSlot({.tables = use.loaded->tables,
                                        .session = nullptr,
                                        .strength = r.strength * use.loaded->settings.strength,
                                        .shadow = shadow});
  const std::vector<uint32_t> slots(r.rows, slot);
  std::vector<uint32_t> positions(r.rows);
  for (uint32_t i = 0; i < r.rows; ++i) positions[i] = i;
  Result<Step> step = router.BeginStep(slots, positions, r.tokens);
  if (!step.ok()) {
    routed.error = FromError(step.error());
    return routed;
  }
  // Rows of a request are no text: the gate is what the caller says.
  step.value().gate.assign(r.rows, 1.0f);
  std::copy(r.gate.begin(), r.gate.end(), step.value().gate.begin());
  const std::vector<float> before = r.logits;
  if (const Status status = router.Route(step.value(), r.layer, r.hidden, r.logits); !status.ok()) {
    routed.error = FromError(status.error());
    return routed;
  }
  routed.written.resize(r.rows);
  for (uint32_t i = 0; i < r.rows; ++i) {
    routed.written[i] = std::memcmp(&before[size_t{i} * r.experts], &r.logits[size_t{i} * r.experts],
                                    size_t{r.experts} * sizeof(float)) != 0;
  }
  return routed;
}

HttpResponse BinaryResponse(const RouteRows& r, const Routed& routed) {
  HttpResponse response;
  response.content_type = kBinary;
  const uint32_t head[4] = {r.rows, r.experts, 0, 0};
  response.body.reserve(sizeof(head) + r.logits.size() * sizeof(float) + r.rows);
  response.body.append(reinterpret_cast<const char*>(head), sizeof(head));
  response.body.append(reinterpret_cast<const char*>(r.logits.data()), r.logits.size() * sizeof(float));
  response.body.append(reinterpret_cast<const char*>(routed.written.data()), routed.written.size());
  return response;
}

HttpResponse JsonAnswer(const RouteRows& r, const Routed& routed, const MemoryUse& use) {
  json logits = json::array(), written = json::array();
  for (uint32_t i = 0; i < r.rows; ++i) {
    const auto row = std::span(r.logits).subspan(size_t{i} * r.experts, r.experts);
    logits.push_back(json(std::vector<float>(row.begin(), row.end())));
    written.push_back(routed.written[i] != 0);
  }
  return JsonResponse({{"logits", std::move(logits)},
                       {"written", std::move(written)},
                       {"memory", use.loaded->id},
                       {"generation", use.loaded->generation}});
}

struct RouteService {
  explicit RouteService(ApiContext& c)
      : context(c),
        admission(c.options.compute_threads, c.options.route_wait_ms / 1e3),
        seconds(c.metrics.AddHistogram("pointsman_route_duration_seconds", "Time of /v1/route on a compute thread.",
                                       LatencyBuckets())),
        rows(c.metrics.AddCounter("pointsman_route_rows_total", "Rows that /v1/route was given.")),
        written(c.metrics.AddCounter("pointsman_route_rows_written_total", "Rows whose logits /v1/route changed.")) {}
  ApiContext& context;
  WaitAdmission admission;
  Histogram& seconds;
  Counter& rows;
  Counter& written;
};

HttpResponse Answer(RouteService& service, const HttpRequest& http, bool binary, WaitAdmission::Ticket& ticket) {
  const auto started = std::chrono::steady_clock::now();
  std::string memory = service.context.options.default_memory;
  if (const auto named = http.query.find("memory"); named != http.query.end()) memory = named->second;
  auto parsed = binary ? ParseBinary(http.body) : ParseJson(http, &memory);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  auto& rows = std::get<RouteRows>(parsed);
  const auto found = FindMemory(service.context, http.principal, memory);
  if (const auto* error = std::get_if<ApiError>(&found)) return ErrorResponse(*error);
  const auto& use = std::get<MemoryUse>(found);
  const bool off = service.context.disabled || use.state->disabled;
  Routed routed;
  if (off) {
    routed.written.assign(rows.rows, 0);
  } else {
    routed = RunRoute(rows, use, service.context.shadow || use.state->shadow);
    if (routed.error) return ErrorResponse(*routed.error);
  }
  ++use.state->requests;
  service.rows.Add(rows.rows);
  service.written.Add(static_cast<double>(std::ranges::count(routed.written, 1)));
  const double seconds = SecondsSince(started);
  service.seconds.Observe(seconds);
  ticket.Took(seconds);  // requests that were refused tell nothing of it
  return binary ? BinaryResponse(rows, routed) : JsonAnswer(rows, routed, use);
}

ApiError Busy() { return {ApiCode::kOverloaded, "the router is busy; try again", {}, 1}; }

asio::awaitable<HttpResponse> Handle(std::shared_ptr<RouteService> service, const HttpRequest& http) {
  const bool binary = http.Header("content-type") == kBinary;
  auto ticket = service->admission.Enter(http.body.size());
  if (!ticket) co_return ErrorResponse(Busy());
  co_return co_await OnCompute(service->context.compute, [&] { return Answer(*service, http, binary, *ticket); });
}

}  // namespace

void AddRouteRoutes(PathRouter& router, ApiContext& context) {
  const auto service = std::make_shared<RouteService>(context);
  router.Add(
      {.method = "POST",
       .pattern = "/v1/route",
       .access = Access::kRead,
       .handler = [service](const HttpRequest& request) { return Handle(service, request); },
       .refuses =
           [service](const HttpRequest&) { return service->admission.Full() ? std::optional(Busy()) : std::nullopt; }});
}

}  // namespace pointsman
