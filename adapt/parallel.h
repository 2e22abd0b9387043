// A fixed number of independent tasks over a number of threads. What a task computes must not depend on the thread that
// runs it; results are combined by the caller in task order, so that any thread count gives the same bits.
#pragma once

#include <functional>

namespace pointsman {

// Runs task(0) .. task(count - 1), each once, on up to `threads` threads (the caller's included). Returns when all are
// done. Tasks must not throw. A task runs LibTorch single-threaded (callers set at::set_num_threads(1) once).
void ParallelFor(int count, int threads, const std::function<void(int)>& task);

}  // namespace pointsman
