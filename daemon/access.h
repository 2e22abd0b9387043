// Who may do what. Each route asks for one of these; a key grants one of them and all below it.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace pointsman {

enum class Access : uint8_t {
  kPublic = 0,  // no key needed: /healthz, /readyz
  kRead = 1,    // ask, look, search
  kWrite = 2,   // sessions, documents, snapshots, builds
  kAdmin = 3,   // load and unload memories, kill switch, configuration, audit log
};
const char* AccessName(Access access);  // "public", "read-only", "read-write", "admin"
// What a key may have: every name but "public".
std::optional<Access> AccessOf(std::string_view name);

// The holder of a key. Without keys configured everyone on the loopback address is `anonymous` with kAdmin.
struct Principal {
  std::string name = "anonymous";
  Access access = Access::kPublic;
  // Memories that this key is confined to; absent: all. What is not named here is answered as if it did not exist.
  std::optional<std::set<std::string>> memories = {};

  bool MayUse(const std::string& memory) const { return !memories || memories->contains(memory); }
};

}  // namespace pointsman
