// Wall time of a stage, for reports and benchmarks.
#pragma once

#include <chrono>

namespace pointsman {

inline double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace pointsman
