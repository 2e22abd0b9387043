// What all connections of a server share. Internal to daemon/http.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "daemon/http/http_server.h"

namespace pointsman {

struct ServerState {
  HttpServerOptions options;
  PathRouter router;
  HttpHooks hooks;
  std::atomic<bool> draining{false};
  std::atomic<uint32_t> connections{0}, requests_in_flight{0};
  std::atomic<uint64_t> accepted{0}, refused{0};
  std::mutex mutex;
  std::map<std::string, uint32_t> by_peer;  // open connections
  std::atomic<uint64_t> next_request{1};
  uint64_t instance = 0;  // random: request ids differ between restarts
};

// Counts up while there is room and down when it goes.
class InFlight {
 public:
  InFlight(std::atomic<uint32_t>& count, uint32_t most) : count_(&count) {
    if (count.fetch_add(1) >= most) {
      count.fetch_sub(1);
      count_ = nullptr;
    }
  }
  ~InFlight() {
    if (count_) count_->fetch_sub(1);
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;
  bool admitted() const { return count_ != nullptr; }

 private:
  std::atomic<uint32_t>* count_;
};

}  // namespace pointsman
