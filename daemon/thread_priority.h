// Who goes first inside the process: the network thread before the threads that compute.
//
// On busy cores the scheduler's turns are as long as a request to /v1/route. At equal priority an answer that is ready,
// or a refusal, waits for such a turn; behind threads of lower priority it does not (docs/results.md, the server).
#pragma once

#include <sys/resource.h>
#include <unistd.h>

namespace pointsman {

inline constexpr int kComputeNiceness = 5;  // added to the process's; jobs are further behind (jobs/child_process.h)

// The calling thread, and those that it starts from now on.
inline void YieldToNetwork() {
  const auto thread = static_cast<id_t>(gettid());
  setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + kComputeNiceness);
}

}  // namespace pointsman
