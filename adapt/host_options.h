// How the process is started in which somebody else's engine computes a model (adapt/hosted_model.h). No LibTorch.
#pragma once

#include <string>

namespace pointsman {

struct HostOptions {
  std::string python = "python3";  // a program's path, or a name that PATH finds
  std::string package;             // a folder that holds the package `pointsman`; an installed one is found without
  std::string dtype = "float32";   // of the weights: float32 or bfloat16
  std::string device = "cpu";      // as torch names it
};

}  // namespace pointsman
