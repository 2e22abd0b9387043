// A one-way flag with listeners: "nobody waits for this answer any more". Any thread.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

namespace pointsman {

class Cancellation {
 public:
  bool requested() const {
    const std::lock_guard lock(mutex_);
    return requested_;
  }

  // Runs `listener` once, on the thread that requests; at once if that was before. Listeners must be quick and not
  // throw.
  void OnRequest(std::function<void()> listener) {
    {
      const std::lock_guard lock(mutex_);
      if (!requested_) {
        listeners_.push_back(std::move(listener));
        return;
      }
    }
    listener();
  }

  void Request() {
    std::vector<std::function<void()>> listeners;
    {
      const std::lock_guard lock(mutex_);
      if (requested_) return;
      requested_ = true;
      listeners.swap(listeners_);
    }
    for (const auto& listener : listeners) listener();
  }

 private:
  mutable std::mutex mutex_;
  bool requested_ = false;
  std::vector<std::function<void()>> listeners_;
};

}  // namespace pointsman
