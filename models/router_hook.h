// Connects the model to router/: runs the C++ router on the raw logits of every MoE layer, in place.
//
//   RouterHook hook(router);
//   model.Forward(ids, {.hook = &hook, .slots = slots});
//   if (!hook.status().ok()) ...
//
// The router is borrowed and must outlive the hook. It searches on LibTorch's threads, which have nothing else to do
// then. One hook serves one forward pass at a time (so does its Router). Not differentiable: with gradients recorded on
// the logits it reports an error and leaves them alone (adapt/ has the differentiable twin). After an error every call
// is a no-op until ClearStatus: logits keep their bits.
#pragma once

#include <string>
#include <vector>

#include "models/routing_hook.h"
#include "router/router.h"

namespace pointsman {

class RouterHook : public RoutingHook {
 public:
  explicit RouterHook(Router& router) : router_(router) {}

  void BeginStep(const StepInfo& step) override;
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override;
  // The output memory of each row's binding, where there is one (Router::VoteOutput).
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override;
  Status status() const override { return status_; }
  void ClearStatus() { status_ = Status(); }

  // The step in progress; `gate` is filled once the first adapted layer has run.
  const Step& step() const { return step_; }
  // While on, every Route appends one RowTrace per row of a bound slot.
  void CollectTrace(bool on) { collect_ = on; }
  std::vector<RowTrace> TakeTrace();

 private:
  bool MayWrite(const at::Tensor& logits, const std::string& where);

  Router& router_;
  Step step_;
  std::vector<uint32_t> output_rows_;  // of the step: StepInfo::output_rows
  std::vector<int> layer_numbers_;     // of the step: StepInfo::layer_numbers
  Status status_;
  bool collect_ = false;
  std::vector<RowTrace> trace_;
};

}  // namespace pointsman
