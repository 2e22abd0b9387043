// The door of models/: a frozen Mixture-of-Experts language model in LibTorch, computing in fp32 on the CPU.
//
// Forward is const and re-entrant: any number of threads may call it at once, each with its own cache and hook.
// Weights are shared, immutable, requires_grad = false; CloneWithTrainableWeights makes a copy for full fine-tuning.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory/manifest.h"
#include "memory/result.h"
#include "models/config.h"
#include "models/kv_cache.h"
#include "models/routing_hook.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

class MoeModel {
 public:
  // Loads config.json, *.safetensors, tokenizer.json. Every error names the file, the reason and the remedy.
  static Result<std::unique_ptr<MoeModel>> Load(const std::filesystem::path& directory);
  virtual ~MoeModel() = default;

  virtual const MoeConfig& config() const = 0;
  virtual const Fingerprint& fingerprint() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;

  struct ForwardOptions {
    RoutingHook* hook = nullptr;       // nullptr: the frozen router
    std::vector<uint32_t> slots = {};  // [B] router slot of each sequence; empty = all 0
    KvCache* cache = nullptr;          // nullptr: no cache, positions start at 0
    bool last_only = false;            // logits of the last position only: [B, 1, V]
  };
  // ids [B, T] int64 -> logits [B, T, V] fp32. Differentiable with respect to what the hook adds (and to the weights
  // of a trainable clone). REQUIRES: position + T <= config().max_positions, ids in 0..V-1.
  virtual at::Tensor Forward(const at::Tensor& ids, const ForwardOptions& options) const = 0;

  // All weights by their hub name (fused experts), for full fine-tuning and digests.
  virtual std::vector<std::pair<std::string, at::Tensor>> Weights() const = 0;
  virtual at::Tensor RouterWeight(int layer) const = 0;  // [E, H]
  // A deep copy whose weights require gradients.
  virtual std::unique_ptr<MoeModel> CloneWithTrainableWeights() const = 0;
  // Room for config().max_positions positions of `batch` sequences.
  virtual KvCache NewCache(int64_t batch) const = 0;
};

// Whether all experts of every layer hold the same weights: then it does not matter which of them a token takes.
bool ExpertsAreEqual(const MoeModel& model);

// Tells glibc to keep freed pages and OpenBLAS to use the caller's thread: call once, first thing in main(), in a
// process that runs models.
void TuneRuntime();

}  // namespace pointsman
