// `pointsman bench daemon`: the server under load, each part a question of its own, against a rival or itself unloaded.
//
//   route      POST /v1/route, binary, against the same lookup and blend as a FastAPI service (route_fastapi.py)
//   overload   /v1/route at several times what it can hold: who is accepted, how soon the others know
//   loris      connections that send a byte a second beside a healthy client
//   generate   /v1/completions against Generate() in this process, and eight clients at once against one
//
// All servers are child processes; the load comes from this one, on the same machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct DaemonBenchOptions {
  std::vector<std::string> parts = {"route", "overload", "loris", "generate"};
  uint64_t entries = 100'000;  // of the layer
  uint32_t hidden = 2048, experts = 64, rows = 16;
  uint32_t connections = 8;
  double route_wait_ms = 0.5;  // of our server in overload and loris
  double seconds = 5;          // of each measurement
  int rounds = 3;              // of those with two sides, in turn; medians are printed
  uint32_t slow_connections = 200;
  double overload = 5;                 // times what it can hold
  uint32_t tokens = 128, clients = 8;  // of generate
  std::filesystem::path model;         // of generate
  std::filesystem::path memory;        // of generate; empty: frozen
  int threads = 0;                     // of the engine; 0: one a core
  std::filesystem::path python, scripts;
};

// design.md 10: {"ours", "baseline", "ratio"}, and a member for every other part (schemas/bench_daemon.schema.json).
Result<nlohmann::json> BenchDaemon(const DaemonBenchOptions& options);

}  // namespace pointsman
