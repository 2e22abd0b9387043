// Measurements behind `pointsman bench hosts`: tokens per second of each host with a memory and without.
//
// Our runtime, transformers and vLLM run OLMoE's architecture at the same widths with random weights, llama.cpp the
// GGUF file that it is given. The memory is random, and its gate always open: every row of every layer is searched and
// changed.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "memory/result.h"
#include "models/config.h"

namespace pointsman {

struct HostsBenchOptions {
  std::vector<std::string> hosts = {"runtime", "transformers"};  // and "llama.cpp", "vllm"
  MoeConfig shape;
  uint64_t entries = 100'000;                 // a layer
  std::vector<int64_t> batches = {1, 8, 32};  // of transformers and vLLM; the others decode one sequence
  int64_t prompt = 64;                        // tokens before the decoded one, and of a prefill
  int rounds = 7;                             // pairs of passes; medians are compared
  int threads = 1;
  std::string dtype = "float32";  // of transformers and vLLM; the runtime computes in fp32
  std::filesystem::path gguf;     // of llama.cpp
  std::filesystem::path python, vllm_python, scripts;
};

// schemas/bench_hosts.schema.json. Errors: kInvalidArgument (a host that is none), kNotFound (Python, a script, the
// program of llama.cpp: names what makes it), kInternal (a child failed: its message is on stderr).
Result<nlohmann::json> BenchHosts(const HostsBenchOptions& options);

}  // namespace pointsman
