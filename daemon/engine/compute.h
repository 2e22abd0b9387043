// What one compute thread works with. Nothing here is locked: only that thread touches it, but for the kill switch.
#pragma once

#include "models/model.h"
#include "models/router_hook.h"
#include "router/router.h"

namespace pointsman {

struct Compute {
  explicit Compute(const MoeModel& model) : model(model), hook(router) {}
  Compute(const Compute&) = delete;
  Compute& operator=(const Compute&) = delete;

  const MoeModel& model;  // borrowed
  Router router;
  RouterHook hook;  // without an error between two uses
};

}  // namespace pointsman
