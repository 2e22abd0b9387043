// /v1/memories: what is loaded, its switches, and putting a new generation in place.
#include <fmt/format.h>

#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/api/paths.h"
#include "daemon/json_body.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

json VerdictJson(const VerdictSummary& verdict) {
  return {{"verdict", verdict.verdict},
          {"stale", verdict.stale},
          {"gain", verdict.gain},
          {"gain_ci95", {verdict.gain_low, verdict.gain_high}},  // infinite ends come out as null
          {"damage", verdict.damage},
          {"damage_ci95", {verdict.damage_low, verdict.damage_high}},
          {"test_documents", verdict.test_documents}};
}

json MemoryJson(const ApiContext& context, const MemoryUse& use) {
  const LoadedMemory& loaded = *use.loaded;
  const Manifest& manifest = loaded.memory->manifest();
  const MemoryStats stats = loaded.memory->stats();
  const LiveUse live = MemoryRegistry::UseOf(*use.state);
  return {{"id", loaded.id},
          {"object", "memory"},
          {"generation", loaded.generation},
          {"kind", manifest.kind == MemoryKind::kPrototypes ? "prototypes" : "entries"},
          {"verdict", VerdictJson(manifest.verdict)},
          {"warning", loaded.warning.empty() ? json() : json(loaded.warning)},
          {"rows", stats.rows},
          {"reference_documents", manifest.reference_documents},
          {"reference_tokens", manifest.reference_tokens},
          {"derived_bytes", stats.derived_bytes},
          {"truth_bytes", stats.truth_bytes},
          {"output_memory", loaded.tables->output.enabled},
          {"strength", loaded.settings.strength},
          {"shadow", use.state->shadow.load()},
          {"disabled", use.state->disabled.load()},
          {"default", loaded.id == context.options.default_memory},
          {"use",
           {{"requests", live.requests},
            {"tokens", live.tokens},
            {"open_share", live.open_share},
            {"gate_mean", live.mean_gate},
            {"confidence_mean", live.mean_confidence}}}};
}

asio::awaitable<HttpResponse> List(ApiContext& context, const HttpRequest& http) {
  co_return co_await OnCompute(context.compute, [&] {  // sizes are read from the disk
    json list = json::array();
    for (const MemoryUse& use : context.memories.All()) {
      if (http.principal.MayUse(use.loaded->id)) list.push_back(MemoryJson(context, use));
    }
    return JsonResponse({{"object", "list"}, {"data", std::move(list)}});
  });
}

asio::awaitable<HttpResponse> Show(ApiContext& context, const HttpRequest& http) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute, [&] {
    const auto& use = std::get<MemoryUse>(found);
    json body = MemoryJson(context, use);
    body["manifest"] = json::parse(SerializeManifest(use.loaded->memory->manifest()));
    return JsonResponse(body);
  });
}

ApiError LoadError(const Error& error) {
  if (error.code == ErrorCode::kUnsupported) return {ApiCode::kVerdictRejected, error.message, "allow_rejected"};
  if (error.code == ErrorCode::kBusy) return {ApiCode::kConflict, error.message, "id"};
  return FromError(error, error.code == ErrorCode::kInvalidArgument ? "id" : "path");
}

HttpResponse LoadNow(ApiContext& context, const HttpRequest& http) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  FieldReader fields(std::get<json>(parsed));
  const std::string id = fields.RequiredText("id", 64), path = fields.RequiredText("path", 1024);
  MemorySettings settings;
  settings.allow_rejected = fields.Flag("allow_rejected", false);
  settings.load_to_ram = fields.Flag("load_to_ram", false);
  settings.strength = static_cast<float>(fields.Real("strength", 1, 0, 1));
  fields.Finish();
  if (fields.error()) return ErrorResponse(*fields.error());
  if (!http.principal.MayUse(id)) {
    return ErrorResponse({ApiCode::kForbidden, "this key is confined to other memories", "id"});
  }
  auto directory = PathBelowMemoryRoot(context, path, "path");
  if (const auto* error = std::get_if<ApiError>(&directory)) return ErrorResponse(*error);
  settings.directory = std::get<std::filesystem::path>(directory);
  const Result<MemoryUse> use = context.memories.Load(id, settings);
  context.log.Audit(http.principal.name, "memory.load", {{"memory", id}, {"path", path}}, use.ok() ? "ok" : "refused");
  if (!use.ok()) return ErrorResponse(LoadError(use.error()));
  return JsonResponse(MemoryJson(context, use.value()), 201);
}

asio::awaitable<HttpResponse> Load(ApiContext& context, const HttpRequest& http) {
  co_return co_await OnCompute(context.compute, [&] { return LoadNow(context, http); });
}

asio::awaitable<HttpResponse> Unload(ApiContext& context, const HttpRequest& http) {
  const std::string& id = http.parameters.at("id");
  const auto found = FindMemory(context, http.principal, id);
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute, [&] {
    const Status unloaded = context.memories.Unload(id);
    context.log.Audit(http.principal.name, "memory.unload", {{"memory", id}}, unloaded.ok() ? "ok" : "gone");
    if (!unloaded.ok()) return ErrorResponse(FromError(unloaded.error()));
    return JsonResponse({{"id", id}, {"object", "memory.unloaded"}});
  });
}

asio::awaitable<HttpResponse> Reload(ApiContext& context, const HttpRequest& http) {
  const std::string& id = http.parameters.at("id");
  const auto found = FindMemory(context, http.principal, id);
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute, [&] {
    const Result<uint64_t> generation = context.memories.Reload(id);
    context.log.Audit(http.principal.name, "memory.reload", {{"memory", id}}, generation.ok() ? "ok" : "failed");
    if (!generation.ok()) return ErrorResponse(LoadError(generation.error()));
    return JsonResponse({{"id", id}, {"generation", generation.value()}});
  });
}

HttpResponse SwitchNow(ApiContext& context, const HttpRequest& http, const MemoryUse& use) {
  auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  FieldReader fields(std::get<json>(parsed));
  const bool shadow = fields.Flag("shadow", use.state->shadow), disabled = fields.Flag("disabled", use.state->disabled);
  fields.Finish();
  if (fields.error()) return ErrorResponse(*fields.error());
  context.log.Audit(http.principal.name, "memory.set",
                    {{"memory", use.loaded->id}, {"shadow", shadow}, {"disabled", disabled}}, "ok");
  use.state->shadow = shadow;
  use.state->disabled = disabled;
  return JsonResponse(MemoryJson(context, use));
}

asio::awaitable<HttpResponse> Switch(ApiContext& context, const HttpRequest& http) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute, [&] { return SwitchNow(context, http, std::get<MemoryUse>(found)); });
}

}  // namespace

void AddMemoryRoutes(PathRouter& router, ApiContext& context) {
  AddRoutes(router, context,
            {{"GET", "/v1/memories", Access::kRead, List},
             {"POST", "/v1/memories", Access::kAdmin, Load},
             {"GET", "/v1/memories/{id}", Access::kRead, Show},
             {"PATCH", "/v1/memories/{id}", Access::kAdmin, Switch},
             {"DELETE", "/v1/memories/{id}", Access::kAdmin, Unload},
             {"POST", "/v1/memories/{id}/reload", Access::kWrite, Reload}});
}

}  // namespace pointsman
