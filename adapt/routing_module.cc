#include "adapt/routing_module.h"

namespace pointsman {

at::Tensor ModuleHook::Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) {
  const at::Tensor change = module_.Change(layer, hidden, batch_, training_);
  return change.defined() ? logits + change : logits;
}

}  // namespace pointsman
