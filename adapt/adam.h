// Adam (Kingma & Ba 2015, algorithm 1) without weight decay, over a list of parameters; one step is one ordered loop,
// so that it gives the same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "adapt/routing_module.h"

namespace pointsman {

class Adam {
 public:
  explicit Adam(std::vector<Parameter> parameters, double beta1 = 0.9, double beta2 = 0.999);
  // gradients in the order of the parameters; an undefined one leaves its parameter alone.
  // `rate_scale` multiplies every parameter's learning rate (schedules).
  void Step(std::span<const at::Tensor> gradients, double rate_scale);

 private:
  struct Moments {
    at::Tensor first, second;
  };
  std::vector<Parameter> parameters_;
  std::vector<Moments> moments_;
  double beta1_, beta2_;
  int steps_ = 0;
};

}  // namespace pointsman
