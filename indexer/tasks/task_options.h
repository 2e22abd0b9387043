// What `pointsman eval --task` asks for; flags of the same names. Values only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "indexer/tasks/sandbox.h"

namespace pointsman {

struct TaskOptions {
  std::string kind = "none";        // none | auto | exact | choice | code
  std::vector<std::string> fields;  // "prompt=question", ...
  std::string answer_pattern;       // of exact; empty: GSM8K's
  uint64_t max_items = 200;
  int64_t max_tokens = 128;  // new tokens a sample
  double temperature = 0;
  double top_p = 1;
  std::vector<std::string> stop;
  uint64_t samples = 1;           // of exact: the majority's answer counts; seeds seed, seed + 1, ...
  std::vector<double> strengths;  // the memory at these strengths, too: "memory@0.5"
  std::string test_command;       // of code
  SandboxLimits limits;
  bool isolated = true;
};

}  // namespace pointsman
