// The handles of the C interface as the objects that Python holds. Each frees its handle.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "router/c_api.h"

namespace pointsman::python {

namespace nb = nanobind;

template <auto Free>
struct Deleter {
  void operator()(auto* handle) const { Free(handle); }
};
template <typename Handle, auto Free>
using Owned = std::unique_ptr<Handle, Deleter<Free>>;

struct Memory {
  explicit Memory(pm_memory* made) : handle(made) {}
  Owned<pm_memory, pm_memory_close> handle;
};
struct Session {
  explicit Session(pm_session* made) : handle(made) {}
  Owned<pm_session, pm_session_free> handle;
};
struct Step {
  explicit Step(pm_step* made) : handle(made) {}
  Owned<pm_step, pm_step_free> handle;
};
struct Router {
  Owned<pm_router, pm_router_free> handle{pm_router_new()};
};

// Adds the class Memory, and what it shows of a memory's tables (core_memory.cc).
void BindMemory(nb::module_& module);

}  // namespace pointsman::python
