// The door of daemon/: a model, its memories and everything that is served of them.
//
//   POINTSMAN_TRY(auto daemon, Daemon::Start(options));
//   daemon->Wait();           // until Stop(), SIGTERM or SIGINT; drains
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/engine/engine.h"
#include "daemon/http/http_server.h"
#include "daemon/jobs/runner.h"
#include "daemon/log.h"
#include "daemon/memories.h"
#include "daemon/sessions.h"
#include "memory/result.h"

namespace pointsman {

struct DaemonOptions {
  std::filesystem::path model;
  std::map<std::string, MemorySettings> memories;  // loaded at start, by id; the first one is the default
  std::string default_memory;                      // id that a request without `memory` gets; empty: frozen
  std::string chat_template;  // a file in place of the model's own template, or "default"; empty: the model's own
  bool shadow = false;
  bool follow = false;  // reload memories when another process publishes
  uint32_t follow_interval_s = 5;
  HttpServerOptions http;
  EngineOptions engine;
  uint32_t compute_threads = 2;     // searches, /v1/route, files: beside the engine's thread
  double route_wait_ms = 0.5;       // of /v1/route for a compute thread: a request that would wait longer gets 503
  uint32_t expiry_interval_s = 60;  // between looks for documents whose time has passed
  SessionLimits sessions;
  std::filesystem::path memory_root;  // memories may be loaded and built below it only; empty: at start only
  std::filesystem::path keys_file;    // empty: no keys, loopback only
  // Builds and evaluations as child processes of jobs.executable; jobs.directory empty: none are run. Its functions are
  // the daemon's to set.
  JobRunnerOptions jobs;
  std::filesystem::path corpus_root;  // jobs may read texts below it; empty: only what comes with them
  uint32_t requests_in_flight_per_key = 64;
  LogOptions log;
  std::string version;              // of the program
  std::filesystem::path snapshots;  // the memories' snapshots lie below it, in a folder for each id; empty: none
};

class Daemon {
 public:
  // Loads the model and the memories, then listens: /readyz answers 503 until all are there. Errors: kInvalidArgument
  // (a public address without keys: names both remedies), and those of its parts.
  static Result<std::unique_ptr<Daemon>> Start(DaemonOptions options);
  ~Daemon();

  uint16_t port() const;
  // Blocks until Stop() or a signal. The first SIGTERM or SIGINT drains, the second ends the process at once (exit
  // status 130). SIGHUP reads keys, certificate and log files again.
  Status Wait();
  void Stop();

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
