// A trainable change of the router's logits: the one interface behind entries, prototypes and the baselines.
//
// Parameters are leaf tensors owned by the module. Change() is const and may run on several threads at once; gradients
// are taken by the trainer with respect to Parameters(), in their order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "adapt/sequences.h"
#include "models/routing_hook.h"

namespace pointsman {

struct Parameter {
  std::string name;
  at::Tensor value;          // fp32 leaf, requires_grad
  double learning_rate = 0;  // of Adam, at its peak
};

class RoutingModule {
 public:
  virtual ~RoutingModule() = default;
  virtual std::vector<Parameter> Parameters() const = 0;
  // What the module adds to the logits [rows, E] of `layer`, or an undefined tensor for nothing. hidden [rows, H].
  // `training` says that the batch is of the reference set, whose rows must not see their own group.
  virtual at::Tensor Change(int layer, const at::Tensor& hidden, const Batch& batch, bool training) const = 0;
};

// Applies a module to one batch. One per forward pass; not shared between threads.
class ModuleHook : public RoutingHook {
 public:
  ModuleHook(const RoutingModule& module, const Batch& batch, bool training)
      : module_(module), batch_(batch), training_(training) {}
  // Training only: adds normal noise of this standard deviation to the logits, so that experts just outside of the top
  // k are tried and get a gradient. The draw depends on the batch's `draw`, layer and shapes alone.
  void SetNoise(double deviation) { noise_ = deviation; }
  void BeginStep(const StepInfo&) override {}
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override;

 private:
  const RoutingModule& module_;
  const Batch& batch_;
  bool training_;
  double noise_ = 0;
};

}  // namespace pointsman
