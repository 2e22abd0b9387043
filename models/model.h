// The door of models/: a frozen Mixture-of-Experts language model in LibTorch, computing in fp32 on the CPU.
//
// Forward is const and re-entrant: any number of threads may call it at once, each with its own cache and hook.
// Weights are shared, immutable, requires_grad = false; CloneWithTrainableWeights makes a copy for full fine-tuning.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "memory/result.h"
#include "models/kv_cache.h"
#include "models/loss_model.h"

namespace pointsman {

class MoeModel : public LossModel {
 public:
  // Loads config.json, *.safetensors, tokenizer.json. Every error names the file, the reason and the remedy.
  static Result<std::unique_ptr<MoeModel>> Load(const std::filesystem::path& directory);

  at::Tensor Losses(const at::Tensor& ids, const at::Tensor& targets, RoutingHook* hook,
                    const std::vector<uint32_t>& slots) const override;
  bool ExpertsAreEqual() const override;

  struct ForwardOptions {
    RoutingHook* hook = nullptr;       // nullptr: the frozen router
    std::vector<uint32_t> slots = {};  // [B] router slot of each sequence; empty = all 0
    KvCache* cache = nullptr;          // nullptr: no cache, positions start at 0
    bool last_only = false;            // logits of the last position only: [B, 1, V]
  };
  // A batch of sequences of one length, at one position.
  // ids [B, T] int64 -> logits [B, T, V] fp32. Differentiable with respect to what the hook adds (and to the weights
  // of a trainable clone). REQUIRES: position + T <= config().max_positions, ids in 0..V-1.
  virtual at::Tensor Forward(const at::Tensor& ids, const ForwardOptions& options) const = 0;

  // Part of a ragged pass: the next tokens of one sequence.
  struct RowSegment {
    std::span<const int32_t> tokens;  // at the positions from cache->length on
    KvCache* cache = nullptr;         // of this sequence alone, NewCache(1); its length grows by the tokens
    uint32_t slot = 0;                // router slot
    bool wants_logits = true;         // after the last token
  };
  // One pass over different sequences at different positions, prompts and single new tokens alike: everything but
  // attention works on all rows together. -> logits [segments that want them, V] fp32, in order. Without gradients.
  // A row's result depends on the other rows only through the rounding of products (see models/few_rows.h). On an
  // exception (memory runs out) the caches have their lengths still. REQUIRES: at least one segment, none empty, each
  // with its own cache and, but for 0, its own slot; Forward's for positions and ids.
  virtual at::Tensor ForwardRows(std::span<const RowSegment> segments, RoutingHook* hook) const = 0;

  // A forward pass cut open behind the router of one MoE layer: nothing in it depends on what is added to the logits of
  // that layer or a later one, so it may be gone on from many times.
  struct Cut {
    int layer = 0;
    int64_t batch = 1, past = 0;
    at::Tensor residual;  // [B * T, H]: what the layer's experts are added to
    at::Tensor hidden;    // [B * T, H]: the router's input
    at::Tensor logits;    // [B * T, E]: the router's, changed by the hook
  };
  // Forward = ForwardTo(0) and ForwardFrom with the cut's own logits; the same bits for any layer. ForwardTo begins the
  // hook's step and runs it up to `layer`; each ForwardFrom runs it on the layers after, in that step, and a cache then
  // holds the keys and values of that run. REQUIRES: 0 <= layer < num_layers; ForwardFrom: the cut's batch and cache,
  // whose length is still the cut's `past` or the end of an earlier run from this cut.
  virtual Cut ForwardTo(int layer, const at::Tensor& ids, const ForwardOptions& options) const = 0;
  virtual at::Tensor ForwardFrom(const Cut& cut, const at::Tensor& logits, const ForwardOptions& options) const = 0;

  // All weights by their hub name (fused experts), for full fine-tuning and digests.
  virtual std::vector<std::pair<std::string, at::Tensor>> Weights() const = 0;
  virtual at::Tensor RouterWeight(int layer) const = 0;  // [E, H]
  // A deep copy whose weights require gradients.
  virtual std::unique_ptr<MoeModel> CloneWithTrainableWeights() const = 0;
  // Room for config().max_positions positions of `batch` sequences.
  virtual KvCache NewCache(int64_t batch) const = 0;
};

// Tells glibc to keep freed pages, OpenBLAS to use the caller's thread, and MKL to give the same bits wherever an array
// lies: call once, first thing in main(), in a process that runs models.
void TuneRuntime();

}  // namespace pointsman
