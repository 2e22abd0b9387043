#include "adapt/routing_module.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

namespace pointsman {

at::Tensor ModuleHook::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  const at::Tensor change = module_.Change(layer, hidden, batch_, training_);
  const at::Tensor changed = change.defined() ? logits + change : logits;
  if (!training_ || noise_ == 0) return changed;
  const at::Generator random = at::make_generator<at::CPUGeneratorImpl>(batch_.draw * 4096 + layer);
  return changed + at::randn(logits.sizes(), random, logits.options()) * noise_;
}

}  // namespace pointsman
