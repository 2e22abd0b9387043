#include "adapt/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace pointsman {

void ParallelFor(int count, int threads, const std::function<void(int)>& task) {
  std::atomic<int> next{0};
  auto work = [&] {
    for (int i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < std::min(threads, count); ++i) helpers.emplace_back(work);
  work();
}

}  // namespace pointsman
