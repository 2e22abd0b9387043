// What a request is routed with: its memory (named, default or none), session, strength and switches, taken once when
// the request begins. A swap, an unload or an update of the session changes later requests only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "daemon/access.h"
#include "daemon/api/context.h"
#include "daemon/memories.h"
#include "router/router.h"

namespace pointsman {

struct RoutingChoice {
  bool frozen = false;             // no memory, whatever the default is
  std::string memory;              // empty: the session's, else the default
  std::string session;             // empty: none
  std::optional<double> strength;  // absent: the memory's default
  bool shadow = false;
};

struct BoundRouting {
  std::optional<MemoryUse> memory;                // absent: frozen
  std::shared_ptr<const SessionVectors> session;  // null: none
  std::string session_id;
  float strength = 1;
  bool shadow = false;

  Binding binding() const;
};

std::variant<BoundRouting, ApiError> BindRouting(ApiContext& context, const Principal& principal,
                                                 const RoutingChoice& choice);

}  // namespace pointsman
