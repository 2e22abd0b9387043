// A model that somebody else's engine computes, in a child process: transformers
// (python/pointsman/transformers/host.py).
//
// The process owns the weights and the forward pass; whatever routes stays here. At every MoE layer of a pass it sends
// the router's inputs and logits, and goes on with the logits that the hook gives back. A pass with gradients stays
// there until it is differentiated: then each layer, last first, sends the gradient of the hook's logits and gets those
// of what the hook was given. So a hook learns exactly what it would learn in this process, whatever it reads.
//
//   losses     ids, targets [B, T] int64                      -> losses [B, T]
//   . route    <- hidden [B * T, H], logits [B * T, E]        -> logits [B * T, E], or no array: unchanged
//   backward   gradient of the losses [B, T]                  -> done
//   . gradient <- gradient of a layer's logits [B * T, E]     -> of its hidden states and logits, as far as asked for
//
// Threads: passes and gradients of several threads take turns; a pass computes with HostOptions::threads threads.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "memory/result.h"
#include "models/loss_model.h"

namespace pointsman {

struct HostOptions {
  std::filesystem::path model;     // directory: config.json, weights, tokenizer.json
  std::string python = "python3";  // a program's path, or a name that PATH finds
  std::string package;             // a folder that holds the package `pointsman`; an installed one is found without
  std::string dtype = "float32";   // of the weights: float32 or bfloat16
  std::string device = "cpu";      // as torch names it
  int threads = 1;                 // of the process; the losses' last bits depend on it
};

class HostedModel : public LossModel {
 public:
  // Starts the process and loads the model in it. Errors: kNotFound (no such Python), kUnsupported (a model that the
  // host does not know or cannot hold, a tokenizer that we cannot read), kMismatch, kInternal; each with the remedy.
  static Result<std::unique_ptr<HostedModel>> Start(const HostOptions& options);
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
  Status ReadHello(const HostOptions& options);

  std::shared_ptr<Channel> channel_;
  MoeConfig config_;
  Fingerprint fingerprint_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::vector<int> layer_numbers_;
  bool experts_are_equal_ = false;
  std::string version_;
};

}  // namespace pointsman
