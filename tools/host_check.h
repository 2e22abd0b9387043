// Behind `pointsman verify --host`: does a memory do in somebody else's engine what it does in ours?
//
// Our runtime reads held-out documents of the memory, frozen and with it, and writes down what the router was given and
// what it did; the host reads the same tokens on the user's installation and compares. Of a family that our runtime
// does not have, transformers computes what our router routes (adapt/hosted_model.h): what such a memory was built
// with. The host's side is python/pointsman/HOST/verify.py, llama.cpp's hosts/llamacpp/pointsman_llama_verify.cc, and
// python/pointsman/drift.py what the hosts share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "memory/result.h"

namespace pointsman {

struct HostCheckOptions {
  std::string host;  // transformers, vllm or llamacpp
  std::filesystem::path memory, model;
  std::filesystem::path gguf;     // of llamacpp: the same model
  bool half_cache = false;        // of llamacpp: keys and values in fp16
  std::string dtype = "float32";  // of the weights in the hosts that choose it; a GGUF has its own, ours are fp32
  uint64_t tokens = 2048;         // of text at most
  std::string python;             // a program's path, or a name that the shell finds
};

// `host` of schemas/verify.schema.json. Errors: kMismatch (the memory is another model's), kInvalidArgument (the memory
// holds no text: it was built with --no-text), kNotFound (llamacpp is not built), kInternal (the host failed: its
// message is on stderr; or llama.cpp refuses the GGUF).
Result<nlohmann::json> CheckHost(const HostCheckOptions& options);

}  // namespace pointsman
