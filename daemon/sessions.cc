#include "daemon/sessions.h"

#include <fmt/format.h>

#include <algorithm>

#include "daemon/keys.h"

namespace pointsman {
namespace {

constexpr size_t kEventsKept = 64;

uint64_t BytesOf(const std::shared_ptr<const SessionVectors>& vectors) {
  uint64_t bytes = 0;
  if (!vectors) return 0;
  for (const std::vector<float>& layer : vectors->by_layer) bytes += layer.size() * sizeof(float);
  return bytes;
}

Error Unknown(const std::string& id) {
  return {ErrorCode::kNotFound,
          "session '" + id.substr(0, 64) + "': there is none (any more); POST /v1/sessions makes one"};
}

}  // namespace

SessionStore::SessionStore(SessionLimits limits) : limits_(limits) {}

uint32_t SessionStore::ExpireLocked(int64_t now) {
  return static_cast<uint32_t>(std::erase_if(sessions_, [&](const auto& entry) {
    const bool idle = now - entry.second.used_unix_s > limits_.idle_timeout_s;
    if (idle) bytes_ -= BytesOf(entry.second.vectors);
    return idle;
  }));
}

Result<Session> SessionStore::Create(const std::string& owner, const std::string& memory,
                                     std::shared_ptr<const SessionVectors> start, int64_t now) {
  POINTSMAN_TRY(const std::string secret, RandomToken(16));
  const std::lock_guard lock(mutex_);
  ExpireLocked(now);
  const auto full = [](const std::string& what) {
    return Error{ErrorCode::kBusy, what + "; delete one, or wait until one is idle for long enough"};
  };
  if (sessions_.size() >= limits_.sessions) return full(fmt::format("there are {} sessions already", limits_.sessions));
  const auto own = std::ranges::count_if(sessions_, [&](const auto& entry) { return entry.second.owner == owner; });
  if (own >= limits_.sessions_per_key) return full(fmt::format("this key has {} sessions already", own));
  if (bytes_ + BytesOf(start) > limits_.bytes) return full("the sessions' vectors fill their memory");
  Session session;
  session.id = "sess_" + secret;
  session.owner = owner;
  session.memory = memory;
  session.created_unix_s = session.used_unix_s = now;
  session.vectors = std::move(start);
  bytes_ += BytesOf(session.vectors);
  sessions_[session.id] = session;
  return session;
}

Session* SessionStore::Locate(const std::string& owner, const std::string& id, int64_t now) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second.owner != owner) return nullptr;
  if (now - found->second.used_unix_s > limits_.idle_timeout_s) return nullptr;
  return &found->second;
}

Result<Session> SessionStore::Find(const std::string& owner, const std::string& id, int64_t now) {
  const std::lock_guard lock(mutex_);
  Session* session = Locate(owner, id, now);
  if (!session) return Unknown(id);
  session->used_unix_s = now;
  return *session;
}

std::vector<Session> SessionStore::OfOwner(const std::string& owner) const {
  const std::lock_guard lock(mutex_);
  std::vector<Session> own;
  for (const auto& [id, session] : sessions_) {
    if (session.owner == owner) own.push_back(session);
  }
  return own;
}

Status SessionStore::Update(const std::string& owner, const std::string& id,
                            std::shared_ptr<const SessionVectors> vectors, const SessionEvent& event, int64_t now) {
  const std::lock_guard lock(mutex_);
  Session* session = Locate(owner, id, now);
  if (!session) return Unknown(id);
  const uint64_t before = BytesOf(session->vectors), after = BytesOf(vectors);
  if (bytes_ - before + after > limits_.bytes) {
    return Error{ErrorCode::kBusy, "the sessions' vectors fill their memory; delete a session"};
  }
  bytes_ = bytes_ - before + after;
  session->vectors = std::move(vectors);
  session->used_unix_s = now;
  session->tokens += event.tokens;
  session->events.push_back(event);
  if (session->events.size() > kEventsKept) session->events.erase(session->events.begin());
  return {};
}

Status SessionStore::Remove(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second.owner != owner) return Unknown(id);
  bytes_ -= BytesOf(found->second.vectors);
  sessions_.erase(found);
  return {};
}

uint32_t SessionStore::Expire(int64_t now) {
  const std::lock_guard lock(mutex_);
  return ExpireLocked(now);
}

SessionStore::Size SessionStore::size() const {
  const std::lock_guard lock(mutex_);
  return {static_cast<uint32_t>(sessions_.size()), bytes_};
}

}  // namespace pointsman
