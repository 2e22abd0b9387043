// Adaptation sessions: a client's rerouting vectors between requests, with what they did. Capped in number and bytes;
// the one that was used longest ago makes room only if it is past its idle time, else creation is refused.
//
// A session belongs to the key that made it: others get kNotFound, as if it did not exist. Any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory/result.h"
#include "router/router.h"

namespace pointsman {

struct SessionLimits {
  uint32_t sessions = 1024;
  uint32_t sessions_per_key = 256;
  uint64_t bytes = 256ull << 20;
  uint32_t idle_timeout_s = 3600;
};

// One time that a session learned.
struct SessionEvent {
  int64_t unix_s = 0;
  uint64_t tokens = 0;
  double loss_before = 0, loss_after = 0;  // nats per token of the context; NaN: not measured
  bool kept = true;                        // the guard's decision
};

struct Session {
  std::string id;      // "sess_" and 22 characters of base64url: not guessable
  std::string owner;   // Principal::name
  std::string memory;  // id, or empty
  int64_t created_unix_s = 0, used_unix_s = 0;
  std::shared_ptr<const SessionVectors> vectors;
  std::vector<SessionEvent> events;  // the last 64
  uint64_t tokens = 0;               // learned from, in all
};

class SessionStore {
 public:
  explicit SessionStore(SessionLimits limits);

  // kBusy: no room (the message says which limit).
  Result<Session> Create(const std::string& owner, const std::string& memory,
                         std::shared_ptr<const SessionVectors> start, int64_t now_unix_s);
  Result<Session> Find(const std::string& owner, const std::string& id, int64_t now_unix_s);  // kNotFound; touches it
  std::vector<Session> OfOwner(const std::string& owner) const;
  // What learning made of it. kNotFound if it expired meanwhile. Two requests of one session at once: the later one
  // wins, and its event says from what it started.
  Status Update(const std::string& owner, const std::string& id, std::shared_ptr<const SessionVectors> vectors,
                const SessionEvent& event, int64_t now_unix_s);
  Status Remove(const std::string& owner, const std::string& id);
  uint32_t Expire(int64_t now_unix_s);  // returns how many went

  struct Size {
    uint32_t sessions = 0;
    uint64_t bytes = 0;
  };
  Size size() const;

 private:
  uint32_t ExpireLocked(int64_t now);
  // Null: absent, another's, or past its idle time.
  Session* Locate(const std::string& owner, const std::string& id, int64_t now);

  SessionLimits limits_;
  mutable std::mutex mutex_;
  std::map<std::string, Session, std::less<>> sessions_;
  uint64_t bytes_ = 0;
};

}  // namespace pointsman
