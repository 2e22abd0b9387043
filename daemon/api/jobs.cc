// /v1/builds, /v1/evals and /v1/jobs: long work as child processes of the server. What a build made is not loaded by
// itself: its job says what to send to POST /v1/memories.
#include "daemon/api/jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/completion_response.h"
#include "daemon/api/job_requests.h"
#include "daemon/json_body.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

constexpr int kRetryAfter_s = 30;  // a full queue: jobs take minutes
constexpr auto kPingInterval = std::chrono::seconds(15);
constexpr size_t kUploadNameBytes = 80;

ApiError NoJobs() {
  return {ApiCode::kForbidden, "this server runs no jobs: its operator must start it with --jobs DIR", {}};
}

ApiError SubmitError(const Error& error) {
  if (error.code == ErrorCode::kBusy) return {ApiCode::kRateLimited, error.message, {}, kRetryAfter_s};
  if (error.code == ErrorCode::kInvalidArgument) return {ApiCode::kConflict, error.message, "out"};
  return FromError(error);
}

// Cut as every other error of the API: where things lie is the operator's affair.
std::string ForClients(const std::string& error) { return FromError({ErrorCode::kInvalidArgument, error}).message; }

json ProgressJson(const JobProgress& progress) {
  json object = ToJson(progress);
  object["fraction"] = nullptr;
  if (progress.total && *progress.total > 0) {
    object["fraction"] = std::min(1.0, static_cast<double>(progress.done) / static_cast<double>(*progress.total));
  }
  return object;
}

json TimeOrNull(int64_t unix_s) { return unix_s > 0 ? json(unix_s) : json(); }

// What the paths of a route stand for: its kind of job, or all.
struct Resource {
  const char* pattern;
  const char* kind;  // empty: every kind
};
constexpr Resource kResources[] = {{"/v1/jobs", ""}, {"/v1/builds", "build"}, {"/v1/evals", "eval"}};

bool Visible(const Principal& principal, const JobRecord& job, const std::string& kind) {
  return (kind.empty() || job.kind == kind) && principal.MayUse(job.memory);
}

// The request's job if its caller may see it; the same words whether it is hidden or absent.
ApiResult<JobRecord> FindJob(const ApiContext& context, const HttpRequest& http, const std::string& kind) {
  const std::string& id = http.parameters.at("job");
  if (context.jobs) {
    Result<JobRecord> found = context.jobs->Find(id);
    if (found.ok() && Visible(http.principal, found.value(), kind)) return std::move(found).value();
  }
  return ApiError{ApiCode::kNotFound, "job '" + id + "': there is none; GET /v1/jobs lists them", "job"};
}

asio::awaitable<HttpResponse> List(ApiContext& context, const HttpRequest& http, std::string kind) {
  json list = json::array();
  if (context.jobs) {
    for (const JobRecord& job : context.jobs->List()) {
      if (Visible(http.principal, job, kind)) list.push_back(JobJson(context, job));
    }
  }
  co_return JsonResponse({{"object", "list"}, {"data", std::move(list)}});
}

asio::awaitable<HttpResponse> Show(ApiContext& context, const HttpRequest& http, std::string kind) {
  const auto found = FindJob(context, http, kind);
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return JsonResponse(JobJson(context, std::get<JobRecord>(found)));
}

asio::awaitable<HttpResponse> Cancel(ApiContext& context, const HttpRequest& http, std::string kind) {
  const auto found = FindJob(context, http, kind);
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  const JobRecord job = std::get<JobRecord>(found);
  co_return co_await OnCompute(context.compute, [&] {
    const Result<JobRecord> cancelled = context.jobs->Cancel(job.id);
    context.log.Audit(http.principal.name, HasEnded(job.status) ? "job.forget" : "job.cancel",
                      {{"job", job.id}, {"kind", job.kind}, {"memory", job.memory}}, cancelled.ok() ? "ok" : "failed");
    if (!cancelled.ok()) return ErrorResponse(FromError(cancelled.error(), "job"));
    return JsonResponse(JobJson(context, cancelled.value()));
  });
}

// A reader of a job's events. Woken by the runner, by a timer for signs of life, and by the connection's end.
class Follower {
 public:
  Follower(ApiContext& context, std::string id, const asio::any_io_executor& executor)
      : context_(context), id_(std::move(id)), bell_(std::make_shared<Mailbox<char>>(executor, 1)), timer_(executor) {
    // A bell that rings already need not ring twice: what is new is read afterwards.
    watch_ = context_.jobs->Watch(id_, [bell = bell_] { bell->Send(0); });
  }
  ~Follower() { context_.jobs->Unwatch(watch_); }
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  void EndWith(Cancellation& cancellation) {
    cancellation.OnRequest([bell = std::weak_ptr(bell_)] {
      if (const auto held = bell.lock()) held->Close();
    });
  }

  asio::awaitable<void> Run(HttpStream& stream) {
    uint64_t seen = 0;
    std::string last;
    for (bool first = true;; first = false) {
      const Result<JobRecord> found = context_.jobs->Find(id_);
      if (!found.ok()) break;  // forgotten meanwhile
      const JobRecord& job = found.value();
      std::string event = ": ping\n\n";
      if (first || job.revision != seen) {
        const std::string now = job.progress ? ServerSentEvent(ToJson(*job.progress)) : std::string();
        event = now != last ? now : first ? ": queued\n\n" : "";
        last = now;
      }
      seen = job.revision;
      if (!event.empty() && !co_await stream.Write(event)) co_return;
      if (HasEnded(job.status) || context_.jobs->stopped()) {
        if (!co_await stream.Write(ServerSentEvent(JobJson(context_, job)))) co_return;
        break;
      }
      if (!co_await Wait()) co_return;
    }
    co_await stream.Write("data: [DONE]\n\n");
  }

 private:
  // Until something has changed or it is time for a sign of life. false: nobody reads any more.
  asio::awaitable<bool> Wait() {
    timer_.expires_after(kPingInterval);
    timer_.async_wait([bell = std::weak_ptr(bell_)](const boost::system::error_code& error) {
      if (const auto held = bell.lock(); held && !error) held->Send(0);
    });
    const bool rung = co_await bell_->Receive() != nullptr;
    timer_.cancel();
    co_return rung;
  }

  ApiContext& context_;
  const std::string id_;
  const std::shared_ptr<Mailbox<char>> bell_;
  asio::steady_timer timer_;
  uint64_t watch_ = 0;
};

asio::awaitable<HttpResponse> Events(ApiContext& context, const HttpRequest& http, std::string kind) {
  const auto found = FindJob(context, http, kind);
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  const auto executor = co_await asio::this_coro::executor;
  const auto follower = std::make_shared<Follower>(context, std::get<JobRecord>(found).id, executor);
  if (http.cancelled) follower->EndWith(*http.cancelled);
  HttpResponse response;
  response.content_type = "text/event-stream; charset=utf-8";
  response.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  response.stream = [follower](HttpStream& stream) { return follower->Run(stream); };
  co_return response;
}

using Parse = ApiResult<JobSpec> (*)(const ApiContext&, const Principal&, const json&);

asio::awaitable<HttpResponse> Create(ApiContext& context, const HttpRequest& http, Parse parse) {
  co_return co_await OnCompute(context.compute, [&] {
    if (!context.jobs) return ErrorResponse(NoJobs());
    const auto body = ParseJsonBody(http.body, http.Header("content-type"));
    if (const auto* error = std::get_if<ApiError>(&body)) return ErrorResponse(*error);
    auto spec = parse(context, http.principal, std::get<json>(body));
    if (const auto* error = std::get_if<ApiError>(&spec)) return ErrorResponse(*error);
    return SubmitJob(context, http, std::move(std::get<JobSpec>(spec)));
  });
}

}  // namespace

json JobJson(const ApiContext& context, const JobRecord& job) {
  json object = {{"id", job.id},
                 {"object", "job"},
                 {"kind", job.kind},
                 {"status", JobStatusName(job.status)},
                 {"created", job.created},
                 {"started", TimeOrNull(job.started)},
                 {"finished", TimeOrNull(job.finished)},
                 {"progress", job.progress ? ProgressJson(*job.progress) : json()},
                 {"result", job.result ? *job.result : json()},
                 {"error", job.error.empty() ? json() : json(ForClients(job.error))},
                 {"memory", job.memory.empty() ? json() : json(job.memory)},
                 {"principal", job.principal}};
  if (job.kind == "build") {
    std::error_code error;
    const std::filesystem::path root = std::filesystem::absolute(context.options.memory_root, error);
    const std::filesystem::path path = std::filesystem::path(job.target).lexically_relative(root.lexically_normal());
    object["load"] = {{"id", job.memory}, {"path", path.string()}};  // for POST /v1/memories, once it has succeeded
  }
  return object;
}

void AddUpload(JobSpec& spec, const std::filesystem::path& folder, const std::string& name, std::string text) {
  std::string safe = name.substr(name.find_last_of('/') + 1);  // npos + 1 is 0
  for (char& c : safe) {
    const bool plain =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-' || c == '_';
    if (!plain) c = '_';
  }
  if (safe.empty()) safe = "text.txt";
  if (safe.size() > kUploadNameBytes) safe = safe.substr(safe.size() - kUploadNameBytes);  // its extension counts
  spec.uploads.emplace_back((folder / fmt::format("{:06}-{}", spec.uploads.size() + 1, safe)).string(),
                            std::move(text));
}

HttpResponse SubmitJob(ApiContext& context, const HttpRequest& http, JobSpec spec) {
  if (!context.jobs) return ErrorResponse(NoJobs());
  if (spec.id.empty()) spec.id = JobRunner::NewId();
  spec.principal = http.principal.name;
  const json what = {{"job", spec.id}, {"kind", spec.kind}, {"memory", spec.memory}, {"uploads", spec.uploads.size()}};
  const Result<JobRecord> job = context.jobs->Submit(std::move(spec));
  context.log.Audit(http.principal.name, "job.submit", what, job.ok() ? "ok" : "refused");
  if (!job.ok()) return ErrorResponse(SubmitError(job.error()));
  return JsonResponse(JobJson(context, job.value()), 202);
}

void AddJobRoutes(PathRouter& router, ApiContext& context) {
  const auto add = [&](const char* method, const std::string& pattern, Access access, const char* kind,
                       asio::awaitable<HttpResponse> (*handle)(ApiContext&, const HttpRequest&, std::string)) {
    router.Add(
        {.method = method,
         .pattern = pattern,
         .access = access,
         .handler = [&context, handle, kind](const HttpRequest& request) { return handle(context, request, kind); }});
  };
  for (const Resource& resource : kResources) {
    const std::string one = std::string(resource.pattern) + "/{job}";
    add("GET", resource.pattern, Access::kRead, resource.kind, List);
    add("GET", one, Access::kRead, resource.kind, Show);
    add("GET", one + "/events", Access::kRead, resource.kind, Events);
    add("DELETE", one, Access::kWrite, resource.kind, Cancel);
  }
  const auto creates = [&](const char* pattern, Parse parse) {
    router.Add({.method = "POST",
                .pattern = pattern,
                .access = Access::kWrite,
                .handler = [&context, parse](const HttpRequest& request) { return Create(context, request, parse); }});
  };
  creates("/v1/builds", BuildJobOf);
  creates("/v1/evals", EvalJobOf);
}

}  // namespace pointsman
