// pointsman serve: the REST server (daemon/server.h) with the settings of the command line, environment and file.
#include <fmt/format.h>

#include <cstdio>

#include "daemon/server.h"
#include "tools/command.h"
#include "tools/own_program.h"

namespace pointsman {
namespace {

// "ID=DIR", or DIR whose last name is the id.
Result<std::pair<std::string, std::filesystem::path>> NamedMemory(const std::string& text) {
  const size_t equals = text.find('=');
  const std::filesystem::path given = equals == std::string::npos ? text : text.substr(equals + 1);
  const std::filesystem::path path = given.filename().empty() ? given.parent_path() : given;  // "mem/"
  const std::string id = equals == std::string::npos ? path.filename().string() : text.substr(0, equals);
  if (id.empty() || path.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--memory " + text + ": write MEM, or ID=MEM"};
  }
  return std::pair(id, path);
}

Status ReadMemories(const Settings& settings, DaemonOptions& options) {
  for (const std::string& text : settings.Texts("memory")) {
    POINTSMAN_TRY(const auto named, NamedMemory(text));
    MemorySettings memory;
    memory.directory = named.second;
    memory.load_to_ram = settings.Text("load") == "ram";
    memory.allow_rejected = settings.Flag("allow-rejected");
    if (!options.memories.try_emplace(named.first, memory).second) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--memory {}: the id {} is there already; write ID=MEM", text, named.first)};
    }
    if (options.default_memory.empty()) options.default_memory = named.first;
  }
  if (!settings.Has("default-memory")) return {};
  const std::string wanted = settings.Text("default-memory");
  if (wanted == "frozen") {
    options.default_memory.clear();
  } else if (options.memories.contains(wanted)) {
    options.default_memory = wanted;
  } else {
    return Error{ErrorCode::kInvalidArgument, "--default-memory " + wanted + ": no --memory has this id"};
  }
  return {};
}

LogLevel LevelOf(const std::string& text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "warning") return LogLevel::kWarning;
  return text == "error" ? LogLevel::kError : LogLevel::kInfo;
}

Status ReadJobs(const Settings& settings, DaemonOptions& options) {
  options.corpus_root = settings.Path("corpus-root");
  options.jobs.directory = settings.Path("jobs");
  if (options.jobs.directory.empty()) return {};
  options.jobs.executable = OwnExecutable();
  if (options.jobs.executable.empty()) return Error{ErrorCode::kIo, "/proc/self/exe cannot be read; --jobs needs it"};
  options.jobs.running = static_cast<uint32_t>(settings.Integer("jobs-running"));
  options.jobs.queued = static_cast<uint32_t>(settings.Integer("jobs-queued"));
  if (settings.Has("job-memory-gb")) {
    options.jobs.memory_bytes = static_cast<uint64_t>(1e9 * settings.Real("job-memory-gb"));
  }
  return {};
}

}  // namespace

Result<Output> RunServe(const Settings& settings) {
  DaemonOptions options;
  options.version = POINTSMAN_VERSION;
  options.model = settings.Path("model");
  options.chat_template = settings.Text("chat-template");
  POINTSMAN_CHECK_OK(ReadMemories(settings, options));
  const std::string address = settings.Text("address");
  options.http.address = address == "none" ? "" : address;
  options.http.port = static_cast<uint16_t>(settings.Integer("port"));
  options.http.unix_socket = settings.Path("unix-socket");
  options.http.tls_certificate = settings.Path("tls-certificate");
  options.http.tls_key = settings.Path("tls-key");
  options.http.network_threads = static_cast<int>(settings.Integer("network-threads"));
  options.http.drain_timeout_ms = static_cast<uint32_t>(1e3 * settings.Real("drain-timeout"));
  HttpLimits& limits = options.http.limits;
  limits.connections = static_cast<uint32_t>(settings.Integer("connections"));
  limits.requests_in_flight = static_cast<uint32_t>(settings.Integer("requests-in-flight"));
  limits.body_bytes = static_cast<uint64_t>(settings.Integer("body-bytes"));
  options.requests_in_flight_per_key = static_cast<uint32_t>(settings.Integer("requests-per-key"));
  options.engine.slots = static_cast<uint32_t>(settings.Integer("slots"));
  options.engine.waiting = static_cast<uint32_t>(settings.Integer("waiting"));
  options.engine.threads = static_cast<int>(settings.Integer("threads"));
  options.compute_threads = static_cast<uint32_t>(settings.Integer("compute-threads"));
  options.route_wait_ms = settings.Real("route-wait");
  options.expiry_interval_s = static_cast<uint32_t>(settings.Integer("expiry-interval"));
  options.sessions.sessions = static_cast<uint32_t>(settings.Integer("sessions"));
  options.sessions.idle_timeout_s = static_cast<uint32_t>(settings.Integer("session-idle"));
  options.keys_file = settings.Path("keys");
  options.memory_root = settings.Path("memory-root");
  POINTSMAN_CHECK_OK(ReadJobs(settings, options));
  options.snapshots = settings.Path("snapshots");
  options.shadow = settings.Flag("shadow");
  options.follow = settings.Flag("follow");
  options.log = {.json = settings.Text("log-format") == "json",
                 .level = LevelOf(settings.Text("log-level")),
                 .file = settings.Path("log-file"),
                 .audit_file = settings.Path("audit-log")};
  POINTSMAN_TRY(const auto daemon, Daemon::Start(std::move(options)));
  // For scripts that chose port 0, before the server is waited for.
  const nlohmann::json listening = {{"address", address}, {"port", daemon->port()}};
  fmt::print("{}\n",
             settings.Flag("json") ? listening.dump() : fmt::format("listening on {}:{}", address, daemon->port()));
  std::fflush(stdout);
  POINTSMAN_CHECK_OK(daemon->Wait());
  return Output{.json = {{"stopped", true}}, .text = "stopped\n", .exit_code = 0};
}

}  // namespace pointsman
