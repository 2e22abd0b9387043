#include "adapt/adam.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <utility>

namespace pointsman {

Adam::Adam(std::vector<Parameter> parameters, double beta1, double beta2)
    : parameters_(std::move(parameters)), beta1_(beta1), beta2_(beta2) {
  for (const Parameter& p : parameters_) {
    moments_.push_back({at::zeros_like(p.value).detach(), at::zeros_like(p.value).detach()});
  }
}

void Adam::Step(std::span<const at::Tensor> gradients, double rate_scale) {
  constexpr double kEpsilon = 1e-8;
  c10::AutoGradMode no_grad(false);
  ++steps_;
  const double correction1 = 1 - std::pow(beta1_, steps_);
  const double correction2 = std::sqrt(1 - std::pow(beta2_, steps_));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients[i].defined()) continue;
    Moments& m = moments_[i];
    m.first.mul_(beta1_).add_(gradients[i], 1 - beta1_);
    m.second.mul_(beta2_).addcmul_(gradients[i], gradients[i], 1 - beta2_);
    const at::Tensor denominator = m.second.sqrt().div_(correction2).add_(kEpsilon);
    at::Tensor value = parameters_[i].value;
    value.addcdiv_(m.first, denominator, -parameters_[i].learning_rate * rate_scale / correction1);
  }
}

}  // namespace pointsman
