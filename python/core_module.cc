// pointsman._core: the C interface (router/c_api.h) as Python objects, one to one. The package's typed face is in
// pointsman/memory.py and pointsman/router.py; this file only checks arrays, lets the GIL go and turns errors into
// exceptions. Every object keeps what it stands on alive.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "core_arrays.h"
#include "core_handles.h"
#include "models/c_api.h"
#include "router/c_api.h"

namespace pointsman::python {
namespace {

using namespace nb::literals;

// ---- session, router ----

void NewSession(Session* self, const std::vector<int32_t>& layers, const nb::list& arrays) {
  std::vector<Vector> owners;
  std::vector<const float*> vectors;
  for (const nb::handle array : arrays) {
    owners.push_back(VectorOf("session", array, nb::dtype<float>(), "float32"));
    if (owners.back().length != owners.front().length) {
      Raise(PM_INVALID_ARGUMENT, "session: vectors of " + std::to_string(owners.front().length) + " and " +
                                     std::to_string(owners.back().length) + " experts; pass one length");
    }
    vectors.push_back(static_cast<const float*>(owners.back().data));
  }
  if (vectors.size() != layers.size()) Raise(PM_INVALID_ARGUMENT, "session: pass one vector a layer");
  pm_error error;
  pm_session* session = nullptr;
  const size_t experts = owners.empty() ? 0 : owners.front().length;
  Check(pm_session_new(layers.data(), vectors.data(), vectors.size(), static_cast<uint32_t>(experts), &session, &error),
        error);
  new (self) Session(session);
}

const pm_memory* MemoryHandle(nb::handle memory) {
  return memory.is_none() ? nullptr : nb::cast<const Memory&>(memory).handle.get();
}

const pm_session* SessionHandle(nb::handle session) {
  return session.is_none() ? nullptr : nb::cast<const Session&>(session).handle.get();
}

uint32_t AddSlot(Router& router, nb::object memory, nb::object session, float strength, bool shadow) {
  const uint32_t slot =
      pm_router_add_slot(router.handle.get(), MemoryHandle(memory), SessionHandle(session), strength, shadow);
  if (slot == 0) throw std::bad_alloc();
  return slot;
}

Step BeginStep(Router& router, nb::handle slot_array, nb::handle position_array, nb::object token_array) {
  const Vector slots = VectorOf("slots", slot_array, nb::dtype<uint32_t>(), "uint32");
  const Vector positions = VectorOf("positions", position_array, nb::dtype<uint32_t>(), "uint32");
  Vector tokens;
  if (!token_array.is_none()) tokens = VectorOf("tokens", token_array, nb::dtype<int32_t>(), "int32");
  if (slots.length != positions.length || (tokens.data != nullptr && tokens.length != slots.length)) {
    Raise(PM_INVALID_ARGUMENT, "step of " + std::to_string(slots.length) + " slots, " +
                                   std::to_string(positions.length) + " positions and " +
                                   std::to_string(tokens.length) + " tokens; pass one of each a row");
  }
  pm_error error;
  pm_step* step = nullptr;
  pm_status status;
  {
    nb::gil_scoped_release released;
    status = pm_router_begin_step(router.handle.get(), static_cast<const uint32_t*>(slots.data),
                                  static_cast<const uint32_t*>(positions.data),
                                  static_cast<const int32_t*>(tokens.data), slots.length, &step, &error);
  }
  Check(status, error);
  return Step(step);
}

nb::object StepGate(nb::object self) {
  pm_step* step = nb::cast<Step&>(self).handle.get();
  const size_t shape[] = {pm_step_rows(step)};
  return nb::cast(nb::ndarray<nb::numpy, float>(pm_step_gate(step), 1, shape, self));
}

void CheckRows(const char* name, const Matrix& matrix, size_t rows) {
  if (matrix.rows == rows) return;
  Raise(PM_INVALID_ARGUMENT, std::string(name) + ": " + std::to_string(matrix.rows) + " rows for a step of " +
                                 std::to_string(rows) + "; pass one a row of the step");
}

void Route(Router& router, Step& step, int32_t layer, nb::handle hidden_array, nb::handle logits_array) {
  const Matrix hidden = MatrixOf("hidden", hidden_array, Access::kRead, /*only_float32=*/false);
  const Matrix logits = MatrixOf("logits", logits_array, Access::kWrite, /*only_float32=*/false);
  const size_t rows = pm_step_rows(step.handle.get());
  CheckRows("hidden", hidden, rows);
  CheckRows("logits", logits, rows);
  pm_error error;
  pm_status status;
  {
    nb::gil_scoped_release released;
    status = pm_router_route(router.handle.get(), step.handle.get(), layer, hidden.data, hidden.type, hidden.columns,
                             logits.data, logits.type, logits.columns, &error);
  }
  Check(status, error);
}

// Copies of what a trace callback is shown; made without the GIL.
struct TracedRow {
  pm_row_trace trace;
  std::vector<pm_neighbour> neighbours;
  std::vector<float> before, after;
};

nb::object OwnedArray(std::vector<float> values) {
  auto* buffer = new std::vector<float>(std::move(values));
  nb::capsule owner(buffer, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  const size_t shape[] = {buffer->size()};
  return nb::cast(nb::ndarray<nb::numpy, float>(buffer->data(), 1, shape, owner));
}

nb::dict TraceDict(TracedRow row) {
  nb::dict out;
  out["row"] = row.trace.row;
  out["layer"] = row.trace.layer;
  out["gate"] = row.trace.gate;
  out["confidence"] = row.trace.confidence;
  out["written"] = row.trace.written != 0;
  nb::list neighbours;
  for (const pm_neighbour& neighbour : row.neighbours) {
    neighbours.append(nb::make_tuple(neighbour.row, neighbour.similarity));
  }
  out["neighbours"] = neighbours;
  out["logits_before"] = OwnedArray(std::move(row.before));
  out["logits_after"] = OwnedArray(std::move(row.after));
  return out;
}

nb::list RouteTraced(Router& router, Step& step, int32_t layer, nb::handle hidden_array, nb::handle logits_array) {
  const Matrix hidden = MatrixOf("hidden", hidden_array, Access::kRead, /*only_float32=*/true);
  const Matrix logits = MatrixOf("logits", logits_array, Access::kWrite, /*only_float32=*/true);
  const size_t rows = pm_step_rows(step.handle.get());
  CheckRows("hidden", hidden, rows);
  CheckRows("logits", logits, rows);
  std::vector<TracedRow> traced;
  const pm_trace_fn keep = [](void* context, const pm_row_trace* row) {
    static_cast<std::vector<TracedRow>*>(context)->push_back({*row,
                                                              {row->neighbours, row->neighbours + row->neighbour_count},
                                                              {row->logits_before, row->logits_before + row->experts},
                                                              {row->logits_after, row->logits_after + row->experts}});
  };
  pm_error error;
  pm_status status;
  {
    nb::gil_scoped_release released;
    status =
        pm_router_route_traced(router.handle.get(), step.handle.get(), layer, static_cast<const float*>(hidden.data),
                               hidden.columns, static_cast<float*>(logits.data), logits.columns, keep, &traced, &error);
  }
  Check(status, error);
  nb::list out;
  for (TracedRow& row : traced) out.append(TraceDict(std::move(row)));
  return out;
}

void VoteOutput(Router& router, Step& step, nb::handle hidden_array, nb::handle logits_array, nb::object row_array) {
  const Matrix hidden = MatrixOf("hidden", hidden_array, Access::kRead, /*only_float32=*/true);
  const Matrix logits = MatrixOf("logits", logits_array, Access::kWrite, /*only_float32=*/true);
  Vector rows;
  const bool all = row_array.is_none();
  if (!all) rows = VectorOf("rows", row_array, nb::dtype<uint32_t>(), "uint32");
  const size_t count = all ? pm_step_rows(step.handle.get()) : rows.length;
  CheckRows("hidden", hidden, count);
  CheckRows("logits", logits, count);
  if (count == 0) return;
  pm_error error;
  pm_status status;
  {
    nb::gil_scoped_release released;
    status = pm_router_vote_output(router.handle.get(), step.handle.get(), static_cast<const uint32_t*>(rows.data),
                                   count, static_cast<const float*>(hidden.data), hidden.columns,
                                   static_cast<float*>(logits.data), logits.columns, &error);
  }
  Check(status, error);
}

nb::dict Counters(Router& router) {
  pm_counters counters;
  {
    nb::gil_scoped_release released;
    pm_router_get_counters(router.handle.get(), &counters);
  }
  nb::dict out;
  out["rows"] = counters.rows;
  out["touched"] = counters.touched;
  out["written"] = counters.written;
  out["gate_shut"] = counters.gate_shut;
  out["voted"] = counters.voted;
  out["non_finite"] = counters.non_finite;
  return out;
}

uint32_t SlotLength(Router& router, uint32_t slot) {
  pm_error error;
  uint32_t length = 0;
  Check(pm_router_slot_length(router.handle.get(), slot, &length, &error), error);
  return length;
}

nb::object GateHistory(Router& router, uint32_t slot) {
  pm_error error;
  std::vector<float> gate(SlotLength(router, slot));
  Check(pm_router_gate_history(router.handle.get(), slot, gate.data(), static_cast<uint32_t>(gate.size()), &error),
        error);
  return OwnedArray(std::move(gate));
}

nb::object ExportGate(Router& router, uint32_t slot) {
  pm_error error;
  auto* tokens = new std::vector<int32_t>(SlotLength(router, slot));
  nb::capsule owner(tokens, [](void* p) noexcept { delete static_cast<std::vector<int32_t>*>(p); });
  Check(pm_router_export_gate(router.handle.get(), slot, tokens->data(), static_cast<uint32_t>(tokens->size()), &error),
        error);
  const size_t shape[] = {tokens->size()};
  return nb::cast(nb::ndarray<nb::numpy, int32_t>(tokens->data(), 1, shape, owner));
}

void ImportGate(Router& router, uint32_t slot, nb::handle token_array) {
  const Vector tokens = VectorOf("tokens", token_array, nb::dtype<int32_t>(), "int32");
  pm_error error;
  Check(pm_router_import_gate(router.handle.get(), slot, static_cast<const int32_t*>(tokens.data),
                              static_cast<uint32_t>(tokens.length), &error),
        error);
}

nb::dict FingerprintOfModel(const std::string& directory) {
  pm_error error;
  pm_model_fingerprint fingerprint;
  pm_status status;
  {
    nb::gil_scoped_release released;
    status = pm_fingerprint_of_model(directory.c_str(), &fingerprint, &error);
  }
  Check(status, error);
  nb::dict out;
  out["architecture"] = fingerprint.architecture;
  out["config_sha256"] = fingerprint.config_sha256;
  out["router_sha256"] = fingerprint.router_sha256;
  out["tokenizer_sha256"] = fingerprint.tokenizer_sha256;
  out["dtype"] = fingerprint.dtype;
  out["experts_sha256"] = fingerprint.experts_sha256;
  return out;
}

}  // namespace
}  // namespace pointsman::python

NB_MODULE(_core, module) {
  using namespace pointsman::python;
  if (pm_abi_version() != PM_ABI_VERSION) {
    throw nb::import_error("pointsman: libpointsman.so is of another version than the extension; reinstall pointsman");
  }
  module.attr("version") = pm_version();
  BindMemory(module);
  nb::class_<Session>(module, "Session").def("__init__", &NewSession, "layers"_a, "vectors"_a);
  nb::class_<Step>(module, "Step")
      .def("__len__", [](const Step& step) { return pm_step_rows(step.handle.get()); })
      .def("gate", &StepGate);
  nb::class_<Router>(module, "Router")
      .def(nb::init<>())
      .def("add_slot", &AddSlot, "memory"_a.none(), "session"_a.none(), "strength"_a, "shadow"_a)
      .def("release_slot", [](Router& router, uint32_t slot) { pm_router_release_slot(router.handle.get(), slot); })
      .def("set_strength",
           [](Router& router, uint32_t slot, float strength) {
             pm_error error;
             Check(pm_router_set_strength(router.handle.get(), slot, strength, &error), error);
           })
      .def(
          "set_session",
          [](Router& router, uint32_t slot, nb::object session) {
            pm_error error;
            Check(pm_router_set_session(router.handle.get(), slot, SessionHandle(session), &error), error);
          },
          "slot"_a, "session"_a.none())
      .def("begin_step", &BeginStep, "slots"_a, "positions"_a, "tokens"_a.none())
      .def("route", &Route, "step"_a, "layer"_a, "hidden"_a.none(), "logits"_a.none())
      .def("route_traced", &RouteTraced, "step"_a, "layer"_a, "hidden"_a.none(), "logits"_a.none())
      .def("vote_output", &VoteOutput, "step"_a, "hidden"_a.none(), "logits"_a.none(), "rows"_a.none())
      .def("set_kill_switch", [](Router& router, bool off) { pm_router_set_kill_switch(router.handle.get(), off); })
      .def("counters", &Counters)
      .def("slot_length", &SlotLength)
      .def("gate_history", &GateHistory)
      .def("export_gate", &ExportGate)
      .def("import_gate", &ImportGate);
  module.def("fingerprint_of_model", &FingerprintOfModel, "directory"_a);
}
