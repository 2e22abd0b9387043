// Is a GGUF file the model a memory was built for? A GGUF carries no fingerprint of ours, but its routers are stored in
// fp32 (llama.cpp neither converts nor quantises them), so the fingerprint's router_sha256 can be computed from the
// file. What it cannot say: config_sha256 and tokenizer_sha256 are of files that it does not hold, and its experts may
// be quantised. CheckGguf compares what it can, refuses a difference and names the rest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "memory/memory.h"
#include "memory/result.h"

namespace pointsman {

struct GgufIdentity {
  std::string architecture;   // as a fingerprint spells it: "qwen3_moe" for "qwen3moe"
  std::string router_sha256;  // of the routers of all MoE layers, as fp32; empty if they are quantised
  std::string router_type;    // "f32"
  std::string expert_type;    // of the first MoE layer's experts: "q4_K"
  int64_t layers = 0, hidden = 0, experts = 0, vocabulary = 0;
};

// Maps the file and reads the routers. kNotFound, kCorrupt (not a GGUF, or without routers: a part of a split file
// too).
Result<GgufIdentity> ReadGgufIdentity(const std::filesystem::path& path);

// kMismatch with both values, unless architecture and routers are those of the memory's model. The value is a warning
// text about what was not compared or may matter; empty = none.
Result<std::string> CheckGguf(const GgufIdentity& model, const Memory& memory);

struct GgufMemoryOptions {
  bool allow_rejected = false;  // open it although its verdict is `reject`
};

struct GgufMemory {
  std::shared_ptr<const RoutingTables> tables;
  std::vector<std::string> warnings;  // one line each: verdict, what CheckGguf says
};

// The memory in `directory` for the model in `gguf`, checked as above. kMismatch also for a rejected memory.
Result<GgufMemory> OpenMemoryFor(const std::filesystem::path& gguf, const std::filesystem::path& directory,
                                 const GgufMemoryOptions& options = {});

}  // namespace pointsman
