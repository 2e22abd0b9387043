#include "daemon/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "daemon/api/chat.h"
#include "daemon/api/context.h"
#include "daemon/api/texts.h"
#include "daemon/api/web.h"
#include "daemon/expiry.h"
#include "daemon/keys.h"
#include "daemon/service_notify.h"
#include "daemon/thread_priority.h"

namespace pointsman {
namespace {

// SIGTERM, SIGINT and SIGHUP, one after the other. Handlers, not a blocked mask: BLAS starts threads before main() that
// block nothing, and the signal would end the process there. One thread at a time.
class Signals {
 public:
  Signals() : set_(context_, SIGTERM, SIGINT, SIGHUP) {}

  // The next signal; 0 if none comes in time. None is lost in between.
  int Next(int timeout_ms) {
    int got = 0;
    set_.async_wait([&](const boost::system::error_code& error, int signal) {
      if (!error) got = signal;
    });
    context_.restart();
    context_.run_for(std::chrono::milliseconds(timeout_ms));
    set_.cancel();
    context_.restart();
    context_.poll();
    return got;
  }

 private:
  boost::asio::io_context context_;
  boost::asio::signal_set set_;
};

bool IsLoopback(const std::string& address) {
  boost::system::error_code error;
  const auto parsed = boost::asio::ip::make_address(address, error);
  return address.empty() || (!error && parsed.is_loopback());
}

// The key that a request carries: Authorization: Bearer KEY, or X-Api-Key: KEY.
std::string_view KeyOf(const HttpRequest& request) {
  constexpr std::string_view kBearer = "Bearer ";
  std::string_view given = request.Header("authorization");
  if (given.starts_with(kBearer)) return given.substr(kBearer.size());
  return request.Header("x-api-key");
}

// Whether the request was meant for this machine: without keys a page in a browser must not reach the server by a name
// that it made resolve to 127.0.0.1.
bool NamesLoopback(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, 5) == "[::1]";
  const std::string_view name = host.substr(0, host.find(':'));
  return name.empty() || name == "localhost" || IsLoopback(std::string(name));
}

// Whether a browser says that another site's page sent it. Some requests (a POST without a body) need no permission
// that we could refuse beforehand.
bool FromAnotherSite(const HttpRequest& request) {
  const std::string_view site = request.Header("sec-fetch-site"), origin = request.Header("origin");
  if (!site.empty()) return site != "same-origin" && site != "none";
  const size_t scheme = origin.find("://");
  const bool here = scheme != std::string_view::npos && origin.substr(scheme + 3) == request.Header("host");
  return !origin.empty() && !here;
}

// Requests of one key that run at once.
class KeyLimiter {
 public:
  explicit KeyLimiter(uint32_t most) : most_(most) {}
  bool Full(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    const auto found = running_.find(name);
    return found != running_.end() && found->second >= most_;
  }
  bool Enter(const std::string& name) {
    const std::lock_guard lock(mutex_);
    uint32_t& running = running_[name];
    if (running >= most_) return false;
    ++running;
    return true;
  }
  void Leave(const std::string& name) {
    const std::lock_guard lock(mutex_);
    if (const auto found = running_.find(name); found != running_.end() && --found->second == 0) running_.erase(found);
  }

 private:
  const uint32_t most_;
  mutable std::mutex mutex_;
  std::map<std::string, uint32_t> running_;
};

ApiError KeyIsBusy() { return {ApiCode::kRateLimited, "this key has too many requests running", {}, 1}; }

boost::asio::awaitable<HttpResponse> Limited(HttpHandler handler, std::shared_ptr<KeyLimiter> limiter,
                                             const HttpRequest& request) {
  struct Leaving {
    Leaving(KeyLimiter& l, const std::string& n) : limiter(l), name(n) {}
    ~Leaving() { limiter.Leave(name); }
    Leaving(const Leaving&) = delete;
    Leaving& operator=(const Leaving&) = delete;
    KeyLimiter& limiter;
    const std::string name;
  };
  if (!limiter->Enter(request.principal.name)) {
    co_return ErrorResponse(KeyIsBusy());
  }
  const auto leaving = std::make_shared<Leaving>(*limiter, request.principal.name);
  HttpResponse response = co_await handler(request);
  // A stream counts until it ends.
  if (response.stream) {
    response.stream = [inner = std::move(response.stream), leaving](HttpStream& out) { return inner(out); };
  }
  co_return response;
}

}  // namespace

struct Daemon::Impl {
  explicit Impl(DaemonOptions o) : options(std::move(o)) {}
  ~Impl();

  Status LoadParts();
  Status StartJobs();
  Status Listen();
  PathRouter Routes();
  HttpHooks Hooks();
  void AddEngineMetrics();
  void ExpireDocuments();
  void Housekeep();
  void Hangup();

  DaemonOptions options;
  Signals signals;
  std::unique_ptr<Log> log;
  std::unique_ptr<KeyStore> keys;
  MetricRegistry metrics;
  std::shared_ptr<const MoeModel> model;
  std::unique_ptr<MemoryRegistry> memories;
  std::unique_ptr<SessionStore> sessions;
  std::unique_ptr<DocumentTextCache> texts;
  std::unique_ptr<const ChatFormat> chat;
  std::unique_ptr<boost::asio::thread_pool> compute;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<JobRunner> jobs;  // null without --jobs
  std::unique_ptr<ApiContext> context;
  std::unique_ptr<HttpServer> server;  // before what its handlers use
  std::atomic<bool> stop{false}, expiring{false};
};

// The engine and the compute threads post what they have done to the server's handlers: it goes after them.
Daemon::Impl::~Impl() {
  if (server) server->Stop();
  jobs.reset();
  engine.reset();
  if (compute) compute->join();
  server.reset();
}

Status Daemon::Impl::LoadParts() {
  POINTSMAN_TRY(log, Log::Open(options.log));
  POINTSMAN_TRY(keys, KeyStore::Open(options.keys_file));
  if (!keys->enabled() && !IsLoopback(options.http.address)) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("--address {}: a public address needs keys; add --keys FILE (`pointsman keys new` makes one), "
                    "or listen on 127.0.0.1",
                    options.http.address)};
  }
  log->Write(LogLevel::kInfo, "loading", {{"model", options.model.filename().string()}});
  POINTSMAN_TRY(auto loaded, MoeModel::Load(options.model));
  model = std::move(loaded);
  POINTSMAN_TRY(ChatFormat format, LoadChatFormat(options.model, options.chat_template));
  log->Write(LogLevel::kInfo, "chat template", {{"from", format.origin}});
  chat = std::make_unique<const ChatFormat>(std::move(format));
  memories = std::make_unique<MemoryRegistry>(model->fingerprint(), metrics);
  for (const auto& [id, settings] : options.memories) {
    POINTSMAN_TRY(const MemoryUse use, memories->Load(id, settings));
    const LoadedMemory& memory = *use.loaded;
    if (!memory.warning.empty()) log->Write(LogLevel::kWarning, memory.warning, {{"memory", id}});
    log->Write(LogLevel::kInfo, "memory loaded", {{"memory", id}, {"generation", memory.generation}});
  }
  sessions = std::make_unique<SessionStore>(options.sessions);
  texts = std::make_unique<DocumentTextCache>(model->tokenizer());
  auto pool = std::async(std::launch::async, [&] {  // a thread whose priority the pool's inherit
    YieldToNetwork();
    return std::make_unique<boost::asio::thread_pool>(std::max(1u, options.compute_threads));
  });
  compute = pool.get();
  POINTSMAN_TRY(engine, Engine::Start(model, options.engine));
  return {};
}

// Last of the parts: what an earlier server left goes on at once.
Status Daemon::Impl::StartJobs() {
  if (options.jobs.directory.empty()) return {};
  JobRunnerOptions wanted = options.jobs;
  wanted.on_problem = [this](const std::string& what) { log->Write(LogLevel::kError, "jobs", {{"reason", what}}); };
  wanted.on_ended = [this](const JobRecord& job) {
    log->Write(job.status == JobStatus::kFailed ? LogLevel::kWarning : LogLevel::kInfo, "job ended",
               {{"job", job.id}, {"kind", job.kind}, {"status", JobStatusName(job.status)}, {"error", job.error}});
    if (job.started == 0) return;
    metrics
        .AddHistogram("pointsman_job_duration_seconds", "From a job's start to its end.",
                      {1, 10, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600}, {{"kind", job.kind}})
        .Observe(static_cast<double>(job.finished - job.started));
  };
  // Documents are written by a child: their memory is at a new generation afterwards.
  wanted.on_success["documents"] = [this](const JobRecord& job) -> Status {
    const Result<uint64_t> generation = memories->Reload(job.memory);
    const bool gone = !generation.ok() && generation.error().code == ErrorCode::kNotFound;  // unloaded meanwhile
    return generation.ok() || gone ? Status() : generation.error();
  };
  POINTSMAN_TRY(jobs, JobRunner::Start(std::move(wanted)));
  for (const JobStatus status :
       {JobStatus::kQueued, JobStatus::kRunning, JobStatus::kSucceeded, JobStatus::kFailed, JobStatus::kCancelled}) {
    metrics.AddCallback("pointsman_jobs", "Jobs that are kept.", "gauge", {{"status", JobStatusName(status)}},
                        [this, status] {
                          const auto counts = jobs->Counts();
                          const auto found = counts.find(status);
                          return found == counts.end() ? 0.0 : static_cast<double>(found->second);
                        });
  }
  return {};
}

void Daemon::Impl::AddEngineMetrics() {
  const auto add = [&](const char* name, const char* help, const char* kind, auto value) {
    metrics.AddCallback(name, help, kind, {}, [this, value] { return static_cast<double>(value(engine->stats())); });
  };
  using Stats = const EngineStats&;
  add("pointsman_engine_running", "Requests in the batch.", "gauge", [](Stats s) { return s.running; });
  add("pointsman_engine_waiting", "Requests that wait for a place.", "gauge", [](Stats s) { return s.waiting; });
  add("pointsman_engine_steps_total", "Forward passes.", "counter", [](Stats s) { return s.steps; });
  add("pointsman_engine_prompt_tokens_total", "Tokens of prompts read.", "counter",
      [](Stats s) { return s.prompt_tokens; });
  add("pointsman_engine_generated_tokens_total", "Tokens generated.", "counter",
      [](Stats s) { return s.generated_tokens; });
  add("pointsman_engine_adaptations_total", "Times that online rerouting learned.", "counter",
      [](Stats s) { return s.adaptations; });
  add("pointsman_engine_busy_seconds_total", "Time that the compute thread worked.", "counter",
      [](Stats s) { return s.busy_s; });
  add("pointsman_engine_longest_adaptation_seconds", "Longest time that learning kept other requests waiting.", "gauge",
      [](Stats s) { return s.longest_adaptation_s; });
  add("pointsman_router_rows_total", "Rows and layers that the router saw with a memory or session.", "counter",
      [](Stats s) { return s.router.rows; });
  add("pointsman_router_rows_written_total", "Of these, rows whose logits it changed.", "counter",
      [](Stats s) { return s.router.written; });
  add("pointsman_router_gate_shut_total", "Of these, rows at which the context gate was shut.", "counter",
      [](Stats s) { return s.router.gate_shut; });
  add("pointsman_router_non_finite_total", "Rows left alone for an infinity or NaN.", "counter",
      [](Stats s) { return s.router.non_finite; });
  metrics.AddCallback("pointsman_sessions", "Live sessions.", "gauge", {},
                      [this] { return static_cast<double>(sessions->size().sessions); });
  metrics.AddCallback("pointsman_sessions_bytes", "Bytes of the sessions' vectors.", "gauge", {},
                      [this] { return static_cast<double>(sessions->size().bytes); });
  metrics.AddCallback("pointsman_http_connections", "Open connections.", "gauge", {},
                      [this] { return server ? static_cast<double>(server->stats().connections) : 0.0; });
  metrics.AddCallback("pointsman_log_failed_writes_total", "Lines of the logs that could not be written.", "counter",
                      {}, [this] { return static_cast<double>(log->failed_writes()); });
  AddProcessMetrics(metrics);
}

PathRouter Daemon::Impl::Routes() {
  PathRouter all, limited;
  AddHealthRoutes(all, *context);
  AddModelRoutes(all, *context);
  AddCompletionRoutes(all, *context);
  AddSessionRoutes(all, *context);
  AddMemoryRoutes(all, *context);
  AddDocumentRoutes(all, *context);
  AddSearchRoutes(all, *context);
  AddDiagnosisRoutes(all, *context);
  AddSnapshotRoutes(all, *context);
  AddRouteRoutes(all, *context);
  AddJobRoutes(all, *context);
  AddWebRoutes(all);
  const auto limiter = std::make_shared<KeyLimiter>(options.requests_in_flight_per_key);
  for (Route route : all.routes()) {
    if (route.access != Access::kPublic) {
      route.handler = [handler = route.handler, limiter](const HttpRequest& request) {
        return Limited(handler, limiter, request);
      };
      route.refuses = [refuses = route.refuses, limiter](const HttpRequest& request) -> std::optional<ApiError> {
        if (limiter->Full(request.principal.name)) return KeyIsBusy();
        return refuses ? refuses(request) : std::nullopt;
      };
    }
    limited.Add(std::move(route));
  }
  return limited;
}

HttpHooks Daemon::Impl::Hooks() {
  HttpHooks hooks;
  hooks.authenticate = [this](const HttpRequest& request) -> Result<Principal> {
    if (!keys->enabled() && request.peer != "unix" && !NamesLoopback(request.Header("host"))) {
      return Error{ErrorCode::kInvalidArgument,
                   "without API keys this server answers to localhost only; the Host field names another machine"};
    }
    if (!keys->enabled() && FromAnotherSite(request)) {
      return Error{ErrorCode::kInvalidArgument,
                   "without API keys this server answers no page of another site; open its own, or give it keys"};
    }
    return keys->Authenticate(KeyOf(request));
  };
  hooks.on_finished = [this](const HttpRecord& record) {
    // Routes and statuses only: what a client wrote never becomes a label.
    const std::string route = record.request && !record.request->route.empty() ? record.request->route : "none";
    metrics
        .AddCounter("pointsman_http_requests_total", "Requests answered.",
                    {{"route", route}, {"status", std::to_string(record.status)}})
        .Add();
    metrics
        .AddHistogram("pointsman_http_request_duration_seconds", "From a request's first byte to its answer's last.",
                      LatencyBuckets(), {{"route", route}})
        .Observe(record.seconds);
    nlohmann::json fields = {{"status", record.status},
                             {"seconds", record.seconds},
                             {"bytes", record.bytes_sent},
                             {"peer", record.peer},
                             {"route", route}};
    if (record.request) {
      fields["id"] = record.request->id;
      fields["method"] = record.request->method;
      fields["principal"] = record.request->principal.name;
    }
    if (!record.refused.empty()) fields["refused"] = record.refused;
    log->Write(LogLevel::kDebug, "request", fields);
  };
  hooks.on_defect = [this](const HttpRequest& request, const std::string& what) {
    log->Write(LogLevel::kError, "a handler failed", {{"id", request.id}, {"route", request.route}, {"what", what}});
  };
  return hooks;
}

Status Daemon::Impl::Listen() {
  const std::filesystem::path folder =
      options.model.filename().empty() ? options.model.parent_path() : options.model;  // "models/x/"
  context.reset(new ApiContext{.options = options,
                               .model = *model,
                               .model_id = folder.filename().string(),
                               .started_unix_s = NowUnixSeconds(),
                               .engine = *engine,
                               .memories = *memories,
                               .sessions = *sessions,
                               .log = *log,
                               .metrics = metrics,
                               .compute = *compute,
                               .texts = *texts,
                               .chat = *chat,
                               .jobs = jobs.get()});
  context->shadow = options.shadow;
  AddEngineMetrics();
  POINTSMAN_TRY(server, HttpServer::Start(options.http, Routes(), Hooks()));
  context->ready = true;
  NotifyReady(fmt::format("serving {} on port {}", context->model_id, server->port()));
  log->Write(LogLevel::kInfo, "ready",
             {{"address", options.http.address},
              {"port", server->port()},
              {"model", context->model_id},
              {"memories", memories->All().size()}});
  return {};
}

// On a compute thread, one memory after the other; a look that is still under way is not doubled.
void Daemon::Impl::ExpireDocuments() {
  if (expiring.exchange(true)) return;
  boost::asio::post(*compute, [this] {
    for (const MemoryUse& use : memories->All()) {
      const std::string& id = use.loaded->id;
      const Result<uint64_t> removed = RemoveExpired(*memories, id, NowUnixSeconds());
      if (!removed.ok() && removed.error().code != ErrorCode::kBusy) {
        log->Write(LogLevel::kError, "expired documents not removed",
                   {{"memory", id}, {"reason", removed.error().message}});
      } else if (removed.ok() && removed.value() > 0) {
        log->Audit("expiry", "document.delete", {{"memory", id}, {"documents", removed.value()}}, "ok");
      }
    }
    expiring = false;
  });
}

// What has to happen from time to time.
void Daemon::Impl::Housekeep() {
  sessions->Expire(NowUnixSeconds());
  if (const Status refreshed = keys->Refresh(); !refreshed.ok()) {
    log->Write(LogLevel::kError, "keys not read again", {{"reason", refreshed.error().message}});
  }
  if (!options.follow) return;
  for (const std::string& id : memories->FollowAll()) {
    log->Write(LogLevel::kInfo, "memory swapped", {{"memory", id}});
  }
}

void Daemon::Impl::Hangup() {
  NotifyReloading();
  const Status parts[] = {keys->Refresh(), server->ReloadTls(), log->Reopen()};
  for (const Status& part : parts) {
    if (!part.ok()) log->Write(LogLevel::kError, "not read again", {{"reason", part.error().message}});
  }
  log->Write(LogLevel::kInfo, "keys, certificate and log files read again");
  NotifyReady(fmt::format("serving {} on port {}", context->model_id, server->port()));
}

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::Start(DaemonOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  POINTSMAN_CHECK_OK(impl->LoadParts());
  POINTSMAN_CHECK_OK(impl->StartJobs());
  POINTSMAN_CHECK_OK(impl->Listen());
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

uint16_t Daemon::port() const { return impl_->server->port(); }
void Daemon::Stop() { impl_->stop = true; }

Status Daemon::Wait() {
  constexpr int kTickMs = 250;
  const uint32_t ticks_between = std::max(1u, impl_->options.follow_interval_s * 1000 / kTickMs);
  for (uint32_t tick = 0; !impl_->stop; ++tick) {
    const int signal = impl_->signals.Next(kTickMs);
    if (signal == SIGHUP) impl_->Hangup();
    if (signal == SIGTERM || signal == SIGINT) break;
    if (tick % ticks_between == 0) impl_->Housekeep();
    if (tick % (impl_->options.expiry_interval_s * 1000 / kTickMs) == 0) impl_->ExpireDocuments();
  }
  impl_->context->draining = true;
  NotifyStopping();
  impl_->log->Write(LogLevel::kInfo, "draining", {{"timeout_ms", impl_->options.http.drain_timeout_ms}});
  // A second signal does not wait for the first one's courtesy.
  std::atomic<bool> drained{false};
  std::thread impatient([&] {
    while (!drained) {
      const int signal = impl_->signals.Next(50);
      if (signal == SIGTERM || signal == SIGINT) std::_Exit(130);
    }
  });
  // Ends the streams of their events, too. Beside the drain: a child that takes its time must not keep the door open.
  const std::future<void> jobs_end = std::async(std::launch::async, [&] {
    if (impl_->jobs) impl_->jobs->Stop();
  });
  const bool in_time = impl_->server->Drain();
  jobs_end.wait();
  drained = true;
  impatient.join();
  impl_->log->Write(in_time ? LogLevel::kInfo : LogLevel::kWarning,
                    in_time ? "stopped" : "stopped with requests cut off");
  return {};
}

}  // namespace pointsman
