// How a command ended, in words for whoever asked for the job.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "daemon/jobs/child_messages.h"

namespace pointsman {

// What a child that has ended left behind.
struct ChildEnd {
  int status = 0;  // of waitpid(2)
  std::string output = {};
  bool output_too_large = false;
};

struct Outcome {
  std::string error = {};                             // empty: it did what it was asked
  std::shared_ptr<const nlohmann::json> result = {};  // may be there beside an error: a requirement that was not met
};

// `memory_bytes`: the child's limit, 0 = none; `result_bytes`: of its output, for the message.
Outcome OutcomeOf(const ChildEnd& end, const ChildMessages& messages, uint64_t memory_bytes, uint64_t result_bytes);

}  // namespace pointsman
