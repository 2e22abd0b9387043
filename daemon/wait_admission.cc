#include "daemon/wait_admission.h"

#include <algorithm>

namespace pointsman {
namespace {

constexpr double kNewest = 0.125;        // share of the newest work in seconds_per_byte_
constexpr uint64_t kUnknownDepth = 2;    // taken for each thread before anything has ended
constexpr double kLeftOfWhatRuns = 0.5;  // on average

}  // namespace

WaitAdmission::WaitAdmission(uint32_t threads, double most_wait_s)
    : threads_(std::max(1u, threads)), most_wait_s_(most_wait_s) {}

bool WaitAdmission::FullLocked() const {
  if (taken_ < threads_) return false;
  if (seconds_per_byte_ == 0) return taken_ >= kUnknownDepth * threads_;
  const double running = static_cast<double>(threads_) / static_cast<double>(taken_);  // share of the bytes
  const double ahead = static_cast<double>(bytes_) * (1 - (1 - kLeftOfWhatRuns) * running);
  return ahead * seconds_per_byte_ / threads_ > most_wait_s_;
}

std::optional<WaitAdmission::Ticket> WaitAdmission::Enter(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (FullLocked()) return std::nullopt;
  ++taken_;
  bytes_ += bytes;
  return Ticket(this, bytes);
}

bool WaitAdmission::Full() const {
  const std::lock_guard lock(mutex_);
  return FullLocked();
}

void WaitAdmission::Leave(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  --taken_;
  bytes_ -= bytes;
}

void WaitAdmission::Learn(uint64_t bytes, double seconds) {
  const std::lock_guard lock(mutex_);
  const double now = seconds / static_cast<double>(std::max<uint64_t>(bytes, 1));
  seconds_per_byte_ = seconds_per_byte_ == 0 ? now : seconds_per_byte_ + kNewest * (now - seconds_per_byte_);
}

}  // namespace pointsman
