// /v1/memories/{id}/snapshots: taking, listing, downloading, restoring and removing them; /rollback.
// A memory's snapshots lie in the directory OPTIONS.snapshots / ID, and nowhere else is written or read.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <system_error>
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/api/snapshot_download.h"
#include "daemon/json_body.h"
#include "memory/snapshot.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using nlohmann::json;

struct SnapshotApi {
  explicit SnapshotApi(ApiContext& c) : context(c) {}
  ApiContext& context;
  // Copying and checking a memory may take minutes. One at a time, away from the compute threads, which every request
  // needs.
  asio::thread_pool worker{1};
};

struct Target {
  MemoryUse use;
  fs::path folder;  // of the memory's snapshots

  const std::string& id() const { return use.loaded->id; }
  const fs::path& memory() const { return use.loaded->settings.directory; }
};

ApiResult<Target> FindTarget(const ApiContext& context, const HttpRequest& http) {
  auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (auto* error = std::get_if<ApiError>(&found)) return std::move(*error);
  const fs::path& root = context.options.snapshots;
  if (root.empty()) {
    return ApiError{ApiCode::kForbidden, "this server keeps no snapshots: it was started without --snapshots DIR"};
  }
  Target target{std::get<MemoryUse>(std::move(found)), {}};
  target.folder = root / target.id();
  return target;
}

ApiError WrongName() {
  return {ApiCode::kInvalidValue,
          "name: a snapshot's name has 1 to 64 characters of a-z, 0-9, '.', '_' and '-', begins with a letter or digit "
          "and does not end in .tmp",
          "name"};
}

// The directory of the snapshot that the path names.
ApiResult<fs::path> FindSnapshot(const Target& target, const HttpRequest& http) {
  const std::string& name = http.parameters.at("name");
  if (!IsSnapshotName(name)) return WrongName();
  std::error_code error;
  if (!fs::exists(target.folder / name / "SNAPSHOT.json", error)) {
    return ApiError{ApiCode::kNotFound, "snapshot '" + name + "': not there; GET the list", "name"};
  }
  return target.folder / name;
}

json SnapshotJson(const SnapshotInfo& info) {
  return {{"name", info.name},
          {"object", "snapshot"},
          {"bytes", info.bytes()},
          {"created", info.created_unix_s},
          {"generation", info.generation},
          {"sha256", info.sha256}};
}

ApiError ErrorOf(const ApiContext& context, const Target& target, const Error& error) {
  context.log.Write(LogLevel::kError, "snapshot", {{"memory", target.id()}, {"reason", error.message}});
  if (error.code == ErrorCode::kBusy) {
    return {ApiCode::kConflict, "the memory or the snapshot is being written now: retry when that is over", "id"};
  }
  if (error.code == ErrorCode::kCorrupt) {
    return {ApiCode::kUnprocessable, "it is damaged, so nothing was changed: the server's log names the file", "name"};
  }
  return FromError(error, "name");
}

// No body is an empty object.
ApiResult<json> OptionalBody(const HttpRequest& http) {
  if (http.body.empty()) return json::object();
  return ParseJsonBody(http.body, http.Header("content-type"));
}

// By the time, and a number where that is taken.
std::string FreeName(const fs::path& folder) {
  const std::string stem = fmt::format("{:%Y%m%d-%H%M%S}", fmt::gmtime(std::time(nullptr)));
  std::string name = stem;
  std::error_code error;
  for (int number = 2; fs::exists(folder / name, error); ++number) name = fmt::format("{}-{}", stem, number);
  return name;
}

HttpResponse ListNow(const ApiContext& context, const Target& target) {
  const auto listing = ListSnapshots(target.folder);
  if (!listing.ok()) return ErrorResponse(ErrorOf(context, target, listing.error()));
  for (const Error& damaged : listing.value().damaged) {
    context.log.Write(LogLevel::kWarning, "snapshot", {{"memory", target.id()}, {"reason", damaged.message}});
  }
  json list = json::array();
  for (const SnapshotInfo& info : listing.value().snapshots) list.push_back(SnapshotJson(info));
  return JsonResponse({{"object", "list"}, {"data", std::move(list)}});
}

HttpResponse CreateNow(const ApiContext& context, const Target& target, const HttpRequest& http) {
  const auto parsed = OptionalBody(http);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  FieldReader fields(std::get<json>(parsed));
  std::string name = fields.Text("name", {}, 256);
  if (fields.Has("name") && !IsSnapshotName(name)) fields.Fail("name", WrongName().message.substr(6));
  fields.Finish();
  if (fields.error()) return ErrorResponse(*fields.error());
  if (!fields.Has("name")) name = FreeName(target.folder);
  const fs::path directory = target.folder / name;
  std::error_code error;
  if (fs::exists(directory, error)) {
    return ErrorResponse({ApiCode::kConflict, "snapshot '" + name + "': is there already", "name"});
  }
  const auto info = CreateSnapshot(target.memory(), directory);
  context.log.Audit(http.principal.name, "snapshot.create", {{"memory", target.id()}, {"snapshot", name}},
                    info.ok() ? "ok" : "failed");
  if (!info.ok()) return ErrorResponse(ErrorOf(context, target, info.error()));
  return JsonResponse(SnapshotJson(info.value()), 201);
}

HttpResponse ShowNow(const ApiContext& context, const Target& target, const HttpRequest& http) {
  const auto directory = FindSnapshot(target, http);
  if (const auto* error = std::get_if<ApiError>(&directory)) return ErrorResponse(*error);
  const auto info = ReadSnapshot(std::get<fs::path>(directory));
  if (!info.ok()) return ErrorResponse(ErrorOf(context, target, info.error()));
  return JsonResponse(SnapshotJson(info.value()));
}

HttpResponse DownloadNow(const ApiContext& context, const Target& target, const HttpRequest& http) {
  const auto directory = FindSnapshot(target, http);
  if (const auto* error = std::get_if<ApiError>(&directory)) return ErrorResponse(*error);
  const auto info = ReadSnapshot(std::get<fs::path>(directory));
  if (!info.ok()) return ErrorResponse(ErrorOf(context, target, info.error()));
  return SnapshotDownload(context.compute, std::get<fs::path>(directory), info.value());
}

HttpResponse RemoveNow(const ApiContext& context, const Target& target, const HttpRequest& http) {
  const auto directory = FindSnapshot(target, http);
  if (const auto* error = std::get_if<ApiError>(&directory)) return ErrorResponse(*error);
  const std::string& name = http.parameters.at("name");
  const Status removed = RemoveSnapshot(std::get<fs::path>(directory));
  context.log.Audit(http.principal.name, "snapshot.delete", {{"memory", target.id()}, {"snapshot", name}},
                    removed.ok() ? "ok" : "failed");
  if (!removed.ok()) return ErrorResponse(ErrorOf(context, target, removed.error()));
  return JsonResponse({{"name", name}, {"object", "snapshot.deleted"}, {"deleted", true}});
}

HttpResponse RestoreNow(const ApiContext& context, const Target& target, const HttpRequest& http) {
  const auto directory = FindSnapshot(target, http);
  if (const auto* error = std::get_if<ApiError>(&directory)) return ErrorResponse(*error);
  MemorySettings settings = target.use.loaded->settings;
  settings.directory = std::get<fs::path>(directory);
  settings.load_to_ram = false;  // only looked at
  bool unwanted = false;
  RestoreOptions options;
  // What this server would not load must not take the place of what it has loaded.
  options.accept = [&](const Manifest&) -> Status {
    Status would = context.memories.WouldLoad(settings);
    unwanted = !would.ok();
    return would;
  };
  const auto restored = RestoreSnapshot(settings.directory, target.memory(), options);
  auto generation = restored.ok() ? context.memories.Reload(target.id()) : Result<uint64_t>(restored.error());
  context.log.Audit(http.principal.name, "snapshot.restore",
                    {{"memory", target.id()}, {"snapshot", http.parameters.at("name")}},
                    generation.ok() ? "ok" : "failed");
  if (generation.ok()) return JsonResponse({{"id", target.id()}, {"generation", generation.value()}});
  if (unwanted && generation.error().code == ErrorCode::kUnsupported) {
    return ErrorResponse({ApiCode::kVerdictRejected, generation.error().message, "name"});
  }
  return ErrorResponse(ErrorOf(context, target, generation.error()));
}

// Publishes and reloads; back to what was published if that cannot be served.
Result<uint64_t> RollBackAndReload(MemoryRegistry& memories, const Target& target, uint64_t generation) {
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(target.memory(), {}));
  POINTSMAN_TRY(const Manifest before, writer->manifest());
  POINTSMAN_TRY(const uint64_t now, writer->Rollback(generation));
  auto loaded = memories.Reload(target.id());
  if (loaded.ok() || now == before.generation) return loaded;
  POINTSMAN_CHECK_OK([&]() -> Status {
    const auto back = writer->Rollback(before.generation);
    return back.ok() ? Status() : Status(back.error());
  }());
  return loaded;
}

HttpResponse RollBackNow(const ApiContext& context, const Target& target, const HttpRequest& http) {
  const auto parsed = OptionalBody(http);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return ErrorResponse(*error);
  FieldReader fields(std::get<json>(parsed));
  const int64_t wanted = fields.Integer("generation", 0, 1, int64_t{1} << 53);
  fields.Finish();
  if (fields.error()) return ErrorResponse(*fields.error());
  const uint64_t before = target.use.loaded->generation;
  const auto now = RollBackAndReload(context.memories, target, static_cast<uint64_t>(wanted));
  context.log.Audit(http.principal.name, "memory.rollback",
                    {{"memory", target.id()}, {"from", before}, {"to", now.ok() ? now.value() : before}},
                    now.ok() ? "ok" : "refused");
  if (now.ok()) return JsonResponse({{"id", target.id()}, {"generation", now.value()}});
  if (now.error().code == ErrorCode::kUnsupported) {
    return ErrorResponse({ApiCode::kVerdictRejected, now.error().message, "generation"});
  }
  ApiError error = ErrorOf(context, target, now.error());
  if (now.error().code == ErrorCode::kNotFound || now.error().code == ErrorCode::kInvalidArgument) {
    error.code = ApiCode::kConflict;  // the memory is there, its state does not allow it
  }
  error.param = "generation";
  return ErrorResponse(error);
}

using Work = HttpResponse (*)(const ApiContext&, const Target&, const HttpRequest&);

asio::awaitable<HttpResponse> Handle(std::shared_ptr<SnapshotApi> api, Work work, bool long_work,
                                     const HttpRequest& http) {
  const auto target = FindTarget(api->context, http);
  if (const auto* error = std::get_if<ApiError>(&target)) co_return ErrorResponse(*error);
  asio::thread_pool& pool = long_work ? api->worker : api->context.compute;
  co_return co_await OnCompute(pool, [&] { return work(api->context, std::get<Target>(target), http); });
}

asio::awaitable<HttpResponse> RollBack(std::shared_ptr<SnapshotApi> api, const HttpRequest& http) {
  auto found = FindMemory(api->context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  const Target target{std::get<MemoryUse>(std::move(found)), {}};
  co_return co_await OnCompute(api->worker, [&] { return RollBackNow(api->context, target, http); });
}

}  // namespace

void AddSnapshotRoutes(PathRouter& router, ApiContext& context) {
  const auto api = std::make_shared<SnapshotApi>(context);
  const auto add = [&](const char* method, const char* pattern, Access access, Work work, bool long_work) {
    router.Add({.method = method,
                .pattern = pattern,
                .access = access,
                .handler = [api, work, long_work](const HttpRequest& request) {
                  return Handle(api, work, long_work, request);
                }});
  };
  add(
      "GET", "/v1/memories/{id}/snapshots", Access::kRead,
      [](const ApiContext& c, const Target& target, const HttpRequest&) { return ListNow(c, target); },
      /*long_work=*/false);
  add("POST", "/v1/memories/{id}/snapshots", Access::kWrite, CreateNow, /*long_work=*/true);
  add("GET", "/v1/memories/{id}/snapshots/{name}", Access::kRead, ShowNow, /*long_work=*/false);
  add("DELETE", "/v1/memories/{id}/snapshots/{name}", Access::kWrite, RemoveNow, /*long_work=*/true);
  add("GET", "/v1/memories/{id}/snapshots/{name}/file", Access::kRead, DownloadNow, /*long_work=*/false);
  add("POST", "/v1/memories/{id}/snapshots/{name}/restore", Access::kAdmin, RestoreNow, /*long_work=*/true);
  router.Add({.method = "POST",
              .pattern = "/v1/memories/{id}/rollback",
              .access = Access::kAdmin,
              .handler = [api](const HttpRequest& request) { return RollBack(api, request); }});
}

}  // namespace pointsman
