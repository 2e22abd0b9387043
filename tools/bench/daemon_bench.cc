#include "tools/bench/daemon_bench.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "memory/memory.h"
#include "memory/stopwatch.h"
#include "models/generate.h"
#include "models/model.h"
#include "models/router_hook.h"
#include "models/testing/tiny_model.h"
#include "tools/bench/child_server.h"
#include "tools/bench/load_client.h"
#include "tools/bench/random_memory.h"
#include "tools/own_program.h"

namespace pointsman {
namespace {

using nlohmann::json;
using testing::TemporaryDirectory;
using Clock = std::chrono::steady_clock;

constexpr double kStartTimeout_s = 120;
// Of our server where requests/s are compared: the rivals let requests wait as long as it takes.
constexpr double kThroughputWait_ms = 1000;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void Say(const std::string& line) { spdlog::info("{}", line); }

// A model of one layer with router inputs and experts as wanted, a memory of random entries for it, and its arrays in
// fp32 for the rival.
struct RouteWork {
  TemporaryDirectory folder;
  std::filesystem::path model() const { return folder.path() / "model"; }
  std::filesystem::path memory() const { return folder.path() / "memory"; }
  std::filesystem::path arrays() const { return folder.path() / "arrays"; }
  std::string body;  // one request
};

void WriteFloats(const std::filesystem::path& path, std::span<const float> values) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
}

std::vector<float> Dequantized(std::span<const int8_t> codes, std::span<const float> scales) {
  const size_t columns = codes.size() / scales.size();
  std::vector<float> values(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) values[i] = static_cast<float>(codes[i]) * scales[i / columns];
  return values;
}

void WriteArrays(const RouteWork& work, const RoutingTables& tables, uint32_t rows) {
  const LayerView& layer = tables.layers.front();
  std::filesystem::create_directories(work.arrays());
  WriteFloats(work.arrays() / "mean.f32", layer.keys.mean);
  WriteFloats(work.arrays() / "projection.f32", layer.keys.projection);
  WriteFloats(work.arrays() / "keys.f32", Dequantized(layer.keys.codes, layer.keys.code_scales));
  WriteFloats(work.arrays() / "values.f32", Dequantized(layer.values, layer.value_scales));
  testing::WriteJson(work.arrays() / "shape.json", {{"hidden", layer.keys.hidden},
                                                    {"experts", layer.experts},
                                                    {"dim", layer.keys.dim},
                                                    {"k", layer.calibration.k},
                                                    {"tau", layer.calibration.tau},
                                                    {"tau2", layer.calibration.tau2},
                                                    {"scale", layer.calibration.scale},
                                                    {"rows_a_request", rows}});
}

std::string RouteBody(const DaemonBenchOptions& options) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(size_t{options.rows} * (options.hidden + options.experts));
  for (float& value : values) value = normal(random);
  const uint32_t head[] = {0, options.rows, options.hidden, options.experts, 0};
  const float strength = 1;
  const uint32_t zero = 0;
  std::string body = "PMR1";
  body.append(reinterpret_cast<const char*>(head), sizeof head);
  body.append(reinterpret_cast<const char*>(&strength), sizeof strength);
  body.append(reinterpret_cast<const char*>(&zero), sizeof zero);
  body.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return body;
}

Result<std::unique_ptr<RouteWork>> MakeRouteWork(const DaemonBenchOptions& options) {
  auto work = std::make_unique<RouteWork>();
  const testing::TinyModelShape shape{.hidden = options.hidden,
                                      .inner = 16,
                                      .layers = 1,
                                      .heads = 16,
                                      .kv_heads = 16,
                                      .experts = options.experts,
                                      .top_k = 8};
  testing::WriteTinyModel(work->model(), shape);
  POINTSMAN_TRY(const auto model, MoeModel::Load(work->model()));
  const auto tables = RandomMemory(model->config(), {.rows = options.entries});
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(work->memory(), {.create = true}));
  Manifest manifest;
  manifest.fingerprint = model->fingerprint();
  POINTSMAN_CHECK_OK(writer->Publish(*tables, manifest));
  WriteArrays(*work, *tables, options.rows);
  work->body = RouteBody(options);
  return work;
}

Result<std::unique_ptr<ChildServer>> ServeRoute(const RouteWork& work, double wait_ms) {
  const auto cores = std::max(1u, std::thread::hardware_concurrency());
  return ChildServer::Start(
      {OwnExecutable(), "serve", "--json", "--port", "0", "--model", work.model().string(), "--memory",
       "random=" + work.memory().string(), "--log-level", "warning", "--compute-threads", std::to_string(cores),
       "--threads", "1", "--route-wait", std::to_string(wait_ms)},
      kStartTimeout_s);
}

Result<std::unique_ptr<ChildServer>> ServeRival(const DaemonBenchOptions& options, const RouteWork& work,
                                                const char* search) {
  const std::filesystem::path script = options.scripts / "route_fastapi.py";
  for (const auto& needed : {options.python, script}) {
    if (!std::filesystem::exists(needed)) {
      return Error{ErrorCode::kNotFound, fmt::format("{}: not there: run this in the source folder after tools/setup "
                                                     "bench, or give --python and --scripts",
                                                     needed.string())};
    }
  }
  return ChildServer::Start({options.python.string(), script.string(), work.arrays().string(),
                             std::to_string(std::max(1u, std::thread::hardware_concurrency())), search},
                            kStartTimeout_s);
}

LoadPlan RoutePlan(const DaemonBenchOptions& options, const RouteWork& work, uint16_t port, const char* target) {
  return {.port = port,
          .target = target,
          .content_type = "application/octet-stream",
          .body = work.body,
          .connections = options.connections,
          .seconds = options.seconds};
}

// One answer's logits [rows, experts].
Result<std::vector<float>> OneAnswer(const ChildServer& server, LoadPlan plan) {
  plan.connections = 1;
  plan.seconds = 1;
  plan.warmup_s = 0;
  plan.keep_bodies = true;
  // A rival's processes may still be loading.
  for (const auto begun = Clock::now(); SecondsSince(begun) < kStartTimeout_s && server.alive();) {
    const auto asked = RunLoad(plan);
    if (!asked.ok() || asked.value().bodies.empty()) continue;
    const std::string& body = asked.value().bodies.front();
    uint32_t shape[2] = {0, 0};
    if (body.size() < 16) break;
    std::memcpy(shape, body.data(), sizeof shape);
    std::vector<float> logits(size_t{shape[0]} * shape[1]);
    if (body.size() < 16 + logits.size() * sizeof(float)) break;
    std::memcpy(logits.data(), body.data() + 16, logits.size() * sizeof(float));
    return logits;
  }
  return Error{ErrorCode::kInternal,
               fmt::format("{}: no answer in the binary form, its message is above", plan.target)};
}

struct Sides {
  std::vector<double> requests, p50, p99;
  void Add(const LoadResult& result) {
    requests.push_back(result.requests_per_s());
    p50.push_back(Quantile(result.accepted_ms, 0.5));
    p99.push_back(Quantile(result.accepted_ms, 0.99));
  }
  json Json() const { return {{"requests_per_s", Median(requests)}, {"p50_ms", Median(p50)}, {"p99_ms", Median(p99)}}; }
};

struct Side {
  const char* name;
  std::unique_ptr<ChildServer> server;
  LoadPlan plan;
  Sides measured = {};
};

double LargestDifference(std::span<const float> a, std::span<const float> b) {
  double difference = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    difference = std::max<double>(difference, std::abs(a[i] - b[i]));
  return difference;
}

// All servers stand; they are loaded in turn.
Status BenchRoute(const DaemonBenchOptions& options, const RouteWork& work, json& report) {
  std::vector<Side> sides;
  POINTSMAN_TRY(auto ours, ServeRoute(work, kThroughputWait_ms));
  sides.push_back({"ours", std::move(ours), {}});
  for (const char* search : {"faiss", "numpy"}) {
    POINTSMAN_TRY(auto rival, ServeRival(options, work, search));
    sides.push_back({*search == 'f' ? "baseline" : "numpy_baseline", std::move(rival), {}});
  }
  std::vector<float> our_logits;
  double difference = 0;
  for (Side& side : sides) {
    side.plan = RoutePlan(options, work, side.server->port(), our_logits.empty() ? "/v1/route" : "/route");
    POINTSMAN_TRY(const auto logits, OneAnswer(*side.server, side.plan));
    if (our_logits.empty()) our_logits = logits;
    difference = std::max(difference, LargestDifference(our_logits, logits));
  }
  for (int round = 0; round < options.rounds; ++round) {
    Say(fmt::format("route: round {} of {}", round + 1, options.rounds));
    for (Side& side : sides) {
      POINTSMAN_TRY(const LoadResult result, RunLoad(side.plan));
      if (result.failed > 0) {
        return Error{ErrorCode::kInternal, fmt::format("route: {} requests to {} failed", result.failed, side.name)};
      }
      side.measured.Add(result);
    }
  }
  for (const Side& side : sides) report[side.name] = side.measured.Json();
  const auto ratio = [&](const char* member) {
    return report["ours"][member].get<double>() / report["baseline"][member].get<double>();
  };
  report["ratio"] = ratio("requests_per_s");
  report["p99_ratio"] = ratio("p99_ms");
  report["largest_difference"] = difference;
  return {};
}

Status BenchOverload(const DaemonBenchOptions& options, const RouteWork& work, json& report) {
  POINTSMAN_TRY(const auto server, ServeRoute(work, options.route_wait_ms));
  LoadPlan plan = RoutePlan(options, work, server->port(), "/v1/route");
  POINTSMAN_TRY(const LoadResult full, RunLoad(plan));
  // Unloaded: a fifth of what it can hold.
  plan.rate = full.requests_per_s() / 5;
  POINTSMAN_TRY(const LoadResult calm, RunLoad(plan));
  const uint64_t before = server->resident_bytes();
  plan.rate = options.overload * full.requests_per_s();
  plan.connections = 128;
  Say(fmt::format("overload: {:.0f} requests/s, it holds {:.0f}", plan.rate, full.requests_per_s()));
  POINTSMAN_TRY(const LoadResult heavy, RunLoad(plan));
  const uint64_t after = server->resident_bytes();
  report["overload"] = {{"holds_per_s", full.requests_per_s()},
                        {"offered_per_s", plan.rate},
                        {"accepted_per_s", heavy.requests_per_s()},
                        {"sent_per_s", static_cast<double>(heavy.sent) / heavy.window_s},
                        {"lag_p99_ms", Quantile(heavy.lag_ms, 0.99)},
                        {"refused_per_s", static_cast<double>(heavy.refused) / heavy.seconds},
                        {"failed", heavy.failed},
                        {"unloaded_p99_ms", Quantile(calm.accepted_ms, 0.99)},
                        {"accepted_p99_ms", Quantile(heavy.accepted_ms, 0.99)},
                        {"refused_p99_ms", Quantile(heavy.refused_ms, 0.99)},
                        {"refused_p50_ms", Quantile(heavy.refused_ms, 0.5)},
                        {"resident_bytes_before", before},
                        {"resident_bytes_after", after}};
  return {};
}

// Connections that send a byte of a request's head a second, and open again when they are cut.
class SlowClients {
 public:
  SlowClients(uint16_t port, uint32_t count) : thread_([this, port, count] { Run(port, count); }) {}
  ~SlowClients() {
    stop_ = true;
    thread_.join();
  }
  SlowClients(const SlowClients&) = delete;
  SlowClients& operator=(const SlowClients&) = delete;
  uint64_t cut() const { return cut_; }

 private:
  static int Connect(uint16_t port) {
    const int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connect(handle, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    return handle;
  }
  void Run(uint16_t port, uint32_t count) {
    constexpr std::string_view kHead = "POST /v1/route HTTP/1.1\r\nHost: localhost\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaa";
    std::vector<int> handles(count);
    std::vector<size_t> sent(count, 0);
    for (int& handle : handles) handle = Connect(port);
    // Not in step, as clients that know nothing of each other: a tenth of them every tenth of a second.
    constexpr uint32_t kTurns = 10;
    for (uint32_t turn = 0; !stop_; turn = (turn + 1) % kTurns) {
      for (uint32_t i = turn; i < count; i += kTurns) {
        const bool there = send(handles[i], &kHead[sent[i]++ % kHead.size()], 1, MSG_NOSIGNAL) == 1;
        if (there || errno == EAGAIN) continue;
        ++cut_;
        close(handles[i]);
        handles[i] = Connect(port);
        sent[i] = 0;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1000 / kTurns));
    }
    for (const int handle : handles) close(handle);
  }

  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> cut_{0};
  std::thread thread_;
};

Status BenchLoris(const DaemonBenchOptions& options, const RouteWork& work, json& report) {
  POINTSMAN_TRY(const auto server, ServeRoute(work, options.route_wait_ms));
  LoadPlan plan = RoutePlan(options, work, server->port(), "/v1/route");
  plan.connections = 1;
  POINTSMAN_TRY(const LoadResult full, RunLoad(plan));
  plan.rate = full.requests_per_s() / 4;
  std::vector<double> alone, beside;
  uint64_t cut = 0;
  for (int round = 0; round < options.rounds; ++round) {
    Say(fmt::format("loris: round {} of {}", round + 1, options.rounds));
    POINTSMAN_TRY(const LoadResult a, RunLoad(plan));
    const SlowClients slow(server->port(), options.slow_connections);
    POINTSMAN_TRY(const LoadResult b, RunLoad(plan));
    alone.push_back(Quantile(a.accepted_ms, 0.99));
    beside.push_back(Quantile(b.accepted_ms, 0.99));
    cut += slow.cut();
  }
  report["loris"] = {{"connections", options.slow_connections},
                     {"cut", cut},
                     {"alone_p99_ms", Median(alone)},
                     {"beside_p99_ms", Median(beside)},
                     {"ratio", Median(beside) / Median(alone)}};
  return {};
}

struct GenerateSetting {
  std::string prompt = "// Copyright";
  json Request(uint32_t tokens, bool frozen) const {
    json request = {{"prompt", prompt}, {"max_tokens", tokens}, {"temperature", 0}, {"ignore_eos", true}};
    if (frozen) request["memory"] = nullptr;
    return request;
  }
};

// tokens/s of Generate in this process, as `pointsman generate` runs it.
Result<double> GenerateHere(const DaemonBenchOptions& options, const MoeModel& model,
                            const std::shared_ptr<const Memory>& memory, const GenerateSetting& setting) {
  Router router;
  RouterHook hook(router);
  GenerateOptions generate;
  generate.max_tokens = options.tokens;
  generate.ignore_end = true;
  if (memory) {
    generate.hook = &hook;
    generate.slot =
        router.AddSlot({.tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables()), .session = nullptr});
  }
  const std::vector<int32_t> prompt = model.tokenizer().Encode(setting.prompt);
  uint64_t tokens = 0;
  const auto begun = Clock::now();
  while (SecondsSince(begun) < options.seconds) {
    POINTSMAN_TRY(const Generation generation, Generate(model, prompt, generate));
    tokens += generation.tokens.size();
  }
  return static_cast<double>(tokens) / SecondsSince(begun);
}

Result<double> GenerateThere(const DaemonBenchOptions& options, uint16_t port, uint32_t clients,
                             const GenerateSetting& setting) {
  LoadPlan plan{.port = port,
                .target = "/v1/completions",
                .body = setting.Request(options.tokens, options.memory.empty()).dump(),
                .connections = clients,
                .seconds = options.seconds,
                .keep_bodies = true};
  POINTSMAN_TRY(const LoadResult result, RunLoad(plan));
  // Each answer's tokens in the time from its first to its last, so that cut-off ends do not count.
  uint64_t tokens = 0;
  for (const std::string& body : result.bodies) {
    tokens += json::parse(body)["usage"]["completion_tokens"].get<uint64_t>();
  }
  if (result.failed > 0) return Error{ErrorCode::kInternal, "generate: a completion failed"};
  double mean_ms = 0;
  for (const double ms : result.accepted_ms) mean_ms += ms / static_cast<double>(result.accepted_ms.size());
  // Closed loop: every client is always served, so the rate is clients x tokens an answer / time of one.
  return static_cast<double>(clients) * static_cast<double>(tokens) / static_cast<double>(result.accepted) /
         (mean_ms / 1e3);
}

Status BenchGenerate(const DaemonBenchOptions& options, json& report) {
  POINTSMAN_TRY(const auto model, MoeModel::Load(options.model));
  std::shared_ptr<const Memory> memory;
  std::vector<std::string> arguments = {OwnExecutable(), "serve",       "--json",      "--port", "0",
                                        "--model",       options.model, "--log-level", "warning"};
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
    arguments.insert(arguments.end(), {"--threads", std::to_string(options.threads)});
  }
  if (!options.memory.empty()) {
    POINTSMAN_TRY(memory, Memory::Open(options.memory, {}));
    arguments.insert(arguments.end(), {"--memory", "bench=" + options.memory.string(), "--allow-rejected"});
  }
  POINTSMAN_TRY(const auto server, ChildServer::Start(arguments, kStartTimeout_s));
  const GenerateSetting setting;
  std::vector<double> here, one, many;
  for (int round = 0; round < options.rounds; ++round) {
    Say(fmt::format("generate: round {} of {}", round + 1, options.rounds));
    POINTSMAN_TRY(const double a, GenerateHere(options, *model, memory, setting));
    POINTSMAN_TRY(const double b, GenerateThere(options, server->port(), 1, setting));
    POINTSMAN_TRY(const double c, GenerateThere(options, server->port(), options.clients, setting));
    here.push_back(a);
    one.push_back(b);
    many.push_back(c);
  }
  report["generate"] = {{"tokens", options.tokens},
                        {"memory", !options.memory.empty()},
                        {"generate_tokens_per_s", Median(here)},
                        {"http_tokens_per_s", Median(one)},
                        {"overhead", Median(here) / Median(one) - 1},
                        {"clients", options.clients},
                        {"clients_tokens_per_s", Median(many)},
                        {"clients_ratio", Median(many) / Median(one)}};
  return {};
}

}  // namespace

Result<json> BenchDaemon(const DaemonBenchOptions& options) {
  json report = {{"rows", options.rows},
                 {"hidden", options.hidden},
                 {"experts", options.experts},
                 {"entries", options.entries},
                 {"connections", options.connections},
                 {"seconds", options.seconds},
                 {"rounds", options.rounds},
                 {"route_wait_ms", options.route_wait_ms},
                 {"cores", std::thread::hardware_concurrency()}};
  std::unique_ptr<RouteWork> work;
  for (const std::string& part : options.parts) {
    if (part != "generate" && !work) {
      POINTSMAN_TRY(work, MakeRouteWork(options));
    }
    if (part == "route") {
      POINTSMAN_CHECK_OK(BenchRoute(options, *work, report));
    } else if (part == "overload") {
      POINTSMAN_CHECK_OK(BenchOverload(options, *work, report));
    } else if (part == "loris") {
      POINTSMAN_CHECK_OK(BenchLoris(options, *work, report));
    } else if (part == "generate") {
      POINTSMAN_CHECK_OK(BenchGenerate(options, report));
    } else {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--parts {}: use route, overload, loris or generate, with commas between", part)};
    }
  }
  return report;
}

}  // namespace pointsman
