// A model that somebody else's engine computes, in a child process: transformers
// (python/pointsman/transformers/host.py).
//
// The process owns the weights and the forward pass; whatever routes stays here. At every MoE layer of a pass it sends
// the router's inputs and logits, and goes on with the logits that the hook gives back. A pass with gradients stays
// there until it is differentiated: then each layer, last first, sends the gradient of the hook's logits and gets those
// of what the hook was given. So a hook learns exactly what it would learn in this process, whatever it reads.
//
//   losses     ids, targets [B, T] int64                      -> losses [B, T]; without targets none, only the routers
//   . route    <- hidden [B * T, H], logits [B * T, E]        -> logits [B * T, E], or no array: unchanged
//   backward   gradient of the losses [B, T]                  -> done
//   . gradient <- gradient of a layer's logits [B * T, E]     -> of its hidden states and logits, as far as asked for
//
// Threads: passes and gradients of several threads take turns; a pass computes with the threads that Start was given.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adapt/host_options.h"
#include "memory/result.h"
#include "models/loss_model.h"

namespace pointsman {

class HostedModel : public LossModel {
 public:
  // Starts the process and loads the model of `directory` (config.json, weights, tokenizer.json) in it. The losses'
  // last bits depend on `threads`. Errors: kNotFound (no such Python), kUnsupported (a model that the host does not
  // know or cannot hold, a tokenizer that we cannot read), kMismatch, kInternal; each with the remedy.
  static Result<std::unique_ptr<HostedModel>> Start(const std::filesystem::path& directory, const HostOptions& options,
                                                    int threads);
  ~HostedModel() override;

  // Sizes of the MoE layers; what only a runtime needs to know (heads, rotary positions, ..) is left empty.
  const MoeConfig& config() const override { return config_; }
  const Fingerprint& fingerprint() const override { return fingerprint_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  // RoutingHook::Output is not called: what votes on the output cannot act here.
  at::Tensor Losses(const at::Tensor& ids, const at::Tensor& targets, RoutingHook* hook,
                    const std::vector<uint32_t>& slots) const override;
  bool ExpertsAreEqual() const override { return experts_are_equal_; }
  int LayerNumber(int index) const override { return layer_numbers_[index]; }
  Status status() const override;

  const std::string& version() const { return version_; }  // "transformers 5.23.0"

  class Channel;

 private:
  HostedModel();
  Status ReadHello(const std::filesystem::path& directory, const HostOptions& options);

  std::shared_ptr<Channel> channel_;
  MoeConfig config_;
  Fingerprint fingerprint_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::vector<int> layer_numbers_;
  bool experts_are_equal_ = false;
  std::string version_;
};

}  // namespace pointsman
