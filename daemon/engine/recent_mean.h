// Mean of what was observed over the last minute, to a second. One thread at a time.
#pragma once

#include <array>
#include <cstdint>

namespace pointsman {

class RecentMean {
 public:
  // `second` of any clock that does not go back.
  void Add(int64_t second, double value) {
    Bucket& bucket = buckets_[second % kSeconds];
    if (bucket.second != second) bucket = {.second = second, .sum = 0, .count = 0};
    bucket.sum += value;
    ++bucket.count;
  }

  // 0 where nothing was observed.
  double Mean(int64_t second) const {
    double sum = 0;
    uint64_t count = 0;
    for (const Bucket& bucket : buckets_) {
      if (bucket.second <= second - kSeconds) continue;
      sum += bucket.sum;
      count += bucket.count;
    }
    return count == 0 ? 0 : sum / static_cast<double>(count);
  }

 private:
  static constexpr int64_t kSeconds = 60;
  struct Bucket {
    int64_t second = -kSeconds;
    double sum = 0;
    uint64_t count = 0;
  };
  std::array<Bucket, kSeconds> buckets_ = {};
};

}  // namespace pointsman
