#include "daemon/access.h"

namespace pointsman {

const char* AccessName(Access access) {
  switch (access) {
    case Access::kPublic:
      return "public";
    case Access::kRead:
      return "read-only";
    case Access::kWrite:
      return "read-write";
    case Access::kAdmin:
      return "admin";
  }
  return "public";
}

std::optional<Access> AccessOf(std::string_view name) {
  for (const Access access : {Access::kRead, Access::kWrite, Access::kAdmin}) {
    if (name == AccessName(access)) return access;
  }
  return std::nullopt;
}

}  // namespace pointsman
