// The time that a side of a measurement takes: the processor time of this process where it computes on one thread,
// which is the wall time of an idle machine and does not count what others do on a busy one; the wall time otherwise.
#pragma once

#include <ctime>

namespace pointsman {

class BenchClock {
 public:
  explicit BenchClock(int threads) : id_(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC) {}

  double Now() const {  // seconds
    timespec now{};
    clock_gettime(id_, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }

 private:
  clockid_t id_;
};

}  // namespace pointsman
