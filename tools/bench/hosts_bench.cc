#include "tools/bench/hosts_bench.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "models/testing/tiny_model.h"
#include "tools/bench/child_output.h"
#include "tools/bench/random_memory.h"
#include "tools/bench/route_bench.h"
#include "tools/own_program.h"

namespace pointsman {
namespace {

using nlohmann::json;

// vLLM cannot share weights between layers: 1.6 GB each at OLMoE-1B-7B's widths.
constexpr int64_t kLayersOfVllm = 2;

// Decoding in this process, as `bench route` measures it.
Status OfRuntime(const HostsBenchOptions& options, json& runs) {
  RouteBenchSpec spec;
  spec.shape = options.shape;
  spec.entries = options.entries;
  spec.context = options.prompt;
  spec.threads = options.threads;
  spec.rounds = options.rounds;
  POINTSMAN_TRY(const RouteBenchReport report, BenchRoute(spec));
  const RouteBenchRun& exact = report.runs.front();
  runs.push_back({{"host", "runtime"},
                  {"phase", "decode"},
                  {"batch", 1},
                  {"prompt", options.prompt},
                  {"frozen_tokens_per_s", 1 / exact.decode_s},
                  {"memory_tokens_per_s", 1 / exact.mixed_s},
                  {"overhead", exact.mixed_s / exact.decode_s - 1},
                  {"routing", exact.ratio()}});
  return {};
}

// A host that is a Python script, and what installs its Python.
struct PythonHost {
  std::filesystem::path python;
  std::string script, remedy;
};

// What it prints for a model and a random memory of `shape`.
Result<json> OfPython(const HostsBenchOptions& options, const MoeConfig& shape, const PythonHost& host) {
  // The package as it was built beside this program; an installed one is found without.
  const auto package = BesideThisProgram("python");
  const testing::TemporaryDirectory folder;
  POINTSMAN_CHECK_OK(WriteRandomMemory(folder.path() / "memory", shape, {.rows = options.entries}));
  std::string batches;
  for (const int64_t batch : options.batches) batches += fmt::format("{}{}", batches.empty() ? "" : ",", batch);
  std::vector<std::string> arguments = {host.python.string(), (options.scripts / host.script).string(), "--memory",
                                        (folder.path() / "memory").string()};
  const auto give = [&](const char* name, std::string value) {
    arguments.insert(arguments.end(), {name, std::move(value)});
  };
  for (const auto& [name, value] : {std::pair{"--layers", shape.num_layers},
                                    {"--hidden", shape.hidden_size},
                                    {"--inner", shape.intermediate_size},
                                    {"--heads", shape.num_heads},
                                    {"--experts", shape.num_experts},
                                    {"--top-k", shape.experts_per_token},
                                    {"--vocabulary", shape.vocab_size},
                                    {"--prompt", options.prompt},
                                    {"--rounds", int64_t{options.rounds}},
                                    {"--threads", int64_t{options.threads}}}) {
    give(name, std::to_string(value));
  }
  give("--batch", batches);
  give("--dtype", options.dtype);
  return JsonOfChild(arguments, host.remedy, "PYTHONPATH=" + package.string());
}

Status OfTransformers(const HostsBenchOptions& options, json& runs) {
  POINTSMAN_TRY(json answer,
                OfPython(options, options.shape, {options.python, "hosts_transformers.py", "tools/setup bench"}));
  for (json& run : answer["runs"]) runs.push_back(std::move(run));
  return {};
}

// `about`: what the report says of vLLM alone.
Status OfVllm(const HostsBenchOptions& options, json& runs, json& about) {
  if (!std::filesystem::exists(options.vllm_python)) {
    return Error{ErrorCode::kNotFound,
                 fmt::format("{}: vLLM's Python is not there: run `tools/setup vllm` in the source "
                             "folder, or give --vllm-python",
                             options.vllm_python.string())};
  }
  MoeConfig shape = options.shape;
  shape.num_layers = std::min(shape.num_layers, kLayersOfVllm);
  POINTSMAN_TRY(json answer, OfPython(options, shape, {options.vllm_python, "hosts_vllm.py", "tools/setup vllm"}));
  for (json& run : answer["runs"]) runs.push_back(std::move(run));
  about = std::move(answer["vllm"]);
  return {};
}

Status OfLlama(const HostsBenchOptions& options, json& runs) {
  const std::filesystem::path program = BesideThisProgram("pointsman_llama_bench");
  if (options.gguf.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "llama.cpp needs a model: --gguf FILE (hosts/llamacpp/gguf_from_hf.py makes one)"};
  }
  POINTSMAN_TRY(
      const json answer,
      JsonOfChild({program.string(), "--model", options.gguf.string(), "--entries", std::to_string(options.entries),
                   "--prompt", std::to_string(options.prompt), "--rounds", std::to_string(options.rounds)},
                  "tools/setup llamacpp, then build it"));
  const json &plain = answer["runs"][0], &routed = answer["runs"][3];  // no callback; the memory
  for (const std::string phase : {"decode", "prefill"}) {
    const std::string rate = phase + "_tokens_per_s";
    runs.push_back({{"host", "llama.cpp"},
                    {"phase", phase},
                    {"batch", 1},
                    {"prompt", options.prompt},
                    {"frozen_tokens_per_s", plain.at(rate)},
                    {"memory_tokens_per_s", routed.at(rate)},
                    {"overhead", routed.at(phase + "_overhead")},
                    {"routing", nullptr}});
  }
  return {};
}

// Of a host's decoding at batch 1, frozen; 0 where it was not measured.
double DecodeRate(const json& runs, const char* host) {
  for (const json& run : runs) {
    if (run["host"] == host && run["phase"] == "decode" && run["batch"] == 1) return run["frozen_tokens_per_s"];
  }
  return 0;
}

}  // namespace

Result<json> BenchHosts(const HostsBenchOptions& options) {
  json runs = json::array(), vllm;
  for (const std::string& host : options.hosts) {
    spdlog::info("hosts: {}", host);
    if (host == "runtime") {
      POINTSMAN_CHECK_OK(OfRuntime(options, runs));
    } else if (host == "transformers") {
      POINTSMAN_CHECK_OK(OfTransformers(options, runs));
    } else if (host == "vllm") {
      POINTSMAN_CHECK_OK(OfVllm(options, runs, vllm));
    } else if (host == "llama.cpp") {
      POINTSMAN_CHECK_OK(OfLlama(options, runs));
    } else {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--hosts {}: use runtime, transformers, vllm or llama.cpp, with commas between", host)};
    }
  }
  json report = {{"layers", options.shape.num_layers},
                 {"entries_per_layer", options.entries},
                 {"threads", options.threads},
                 {"dtype", options.dtype}};
  const double ours = DecodeRate(runs, "runtime"), theirs = DecodeRate(runs, "transformers");
  report["runtime_over_transformers"] = ours > 0 && theirs > 0 ? json(ours / theirs) : json();
  if (!vllm.is_null()) report["vllm"] = std::move(vllm);
  report["runs"] = std::move(runs);
  return report;
}

}  // namespace pointsman
