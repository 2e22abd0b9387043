#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "memory/small_floats.h"
#include "router/c_api.h"
#include "router/c_api_handles.h"

namespace pointsman {
namespace {

constexpr int32_t kMaxLayer = 4095;  // a sparse layer number must not allocate without bounds

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }

Status CheckLive(const pm_router* router, uint32_t slot) {
  if (router->router.IsLive(slot)) return {};
  return Invalid(fmt::format("slot {} is not live; add it first", slot));
}

Status CheckLength(const pm_router* router, uint32_t slot, size_t length) {
  POINTSMAN_CHECK_OK(CheckLive(router, slot));
  const size_t seen = router->router.SlotLength(slot);
  if (seen == length) return {};
  return Invalid(fmt::format("slot {} has seen {} positions, not {}; ask for its length first", slot, seen, length));
}

Status CheckOwner(const pm_router* router, const pm_step* step) {
  if (step != nullptr && step->identity == router->identity) return {};
  return Invalid("the step belongs to another router; begin it with the router that routes");
}

Result<std::vector<std::vector<float>>> VectorsByLayer(const int32_t* layers, const float* const* vectors, size_t count,
                                                       uint32_t experts) {
  std::vector<std::vector<float>> by_layer;
  for (size_t i = 0; i < count; ++i) {
    const int32_t layer = layers[i];
    if (layer < 0 || layer > kMaxLayer) {
      return Invalid(fmt::format("session: layer {}; layers are within 0..{}", layer, kMaxLayer));
    }
    if (by_layer.size() <= static_cast<size_t>(layer)) by_layer.resize(static_cast<size_t>(layer) + 1);
    std::vector<float>& vector = by_layer[static_cast<size_t>(layer)];
    if (!vector.empty())
      return Invalid(fmt::format("session: layer {} is there twice; pass one vector a layer", layer));
    vector.assign(vectors[i], vectors[i] + experts);
    if (!std::ranges::all_of(vector, [](float value) { return std::isfinite(value); })) {
      return Invalid(fmt::format("session: layer {} has a value that is not finite", layer));
    }
  }
  return by_layer;
}

// What a narrow type is widened with and narrowed by.
struct NarrowType {
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
};

const NarrowType* NarrowTypeOf(pm_dtype type) {
  static constexpr NarrowType kBFloat16 = {BFloat16ToFloat, FloatToBFloat16};
  static constexpr NarrowType kHalf = {HalfToFloat, FloatToHalf};
  return type == PM_BF16 ? &kBFloat16 : type == PM_F16 ? &kHalf : nullptr;
}

// `values` as fp32: themselves, or widened into `scratch`.
const float* Widened(const void* values, pm_dtype type, size_t count, std::vector<float>& scratch) {
  const NarrowType* narrow = NarrowTypeOf(type);
  if (narrow == nullptr) return static_cast<const float*>(values);
  scratch.resize(count);
  std::transform(static_cast<const uint16_t*>(values), static_cast<const uint16_t*>(values) + count, scratch.begin(),
                 narrow->widen);
  return scratch.data();
}

// Rounds the rows that changed; one that would overflow keeps its bits.
void NarrowChangedRows(const NarrowType& type, std::span<const float> before, std::span<const float> after,
                       size_t width, uint16_t* logits) {
  std::vector<uint16_t> rounded(width);
  for (size_t first = 0; first < after.size(); first += width) {
    if (std::memcmp(&before[first], &after[first], width * sizeof(float)) == 0) continue;
    bool finite = true;
    for (size_t i = 0; i < width; ++i) {
      rounded[i] = type.narrow(after[first + i]);
      finite &= std::isfinite(type.widen(rounded[i]));
    }
    if (finite) std::ranges::copy(rounded, logits + first);
  }
}

struct RouteCall {
  int32_t layer;
  const void* hidden;
  pm_dtype hidden_type;
  size_t hidden_size;
  void* logits;
  pm_dtype logits_type;
  size_t experts;
};

// REQUIRES: the router's lock is held.
Status Route(pm_router* router, pm_step* step, const RouteCall& call, std::vector<RowTrace>* trace) {
  POINTSMAN_CHECK_OK(CheckOwner(router, step));
  const size_t rows = step->step.slots.size();
  const size_t hidden_count = rows * call.hidden_size, logit_count = rows * call.experts;
  const float* hidden = Widened(call.hidden, call.hidden_type, hidden_count, router->wide_hidden);
  const NarrowType* narrow = NarrowTypeOf(call.logits_type);
  if (narrow == nullptr) {
    return router->router.Route(step->step, call.layer, {hidden, hidden_count},
                                {static_cast<float*>(call.logits), logit_count}, trace);
  }
  Widened(call.logits, call.logits_type, logit_count, router->wide_logits);
  router->wide_before = router->wide_logits;
  POINTSMAN_CHECK_OK(router->router.Route(step->step, call.layer, {hidden, hidden_count}, router->wide_logits, trace));
  NarrowChangedRows(*narrow, router->wide_before, router->wide_logits, call.experts,
                    static_cast<uint16_t*>(call.logits));
  return {};
}

bool IsType(int32_t type) { return type == PM_F32 || type == PM_BF16 || type == PM_F16; }

void CallTrace(const std::vector<RowTrace>& rows, pm_trace_fn trace, void* context) {
  for (const RowTrace& row : rows) {
    const pm_row_trace view = {.row = row.row,
                               .layer = row.layer,
                               .gate = row.gate,
                               .confidence = row.confidence,
                               .written = row.written,
                               .neighbour_count = static_cast<uint32_t>(row.neighbours.size()),
                               .experts = static_cast<uint32_t>(row.logits_before.size()),
                               .neighbours = reinterpret_cast<const pm_neighbour*>(row.neighbours.data()),
                               .logits_before = row.logits_before.data(),
                               .logits_after = row.logits_after.data()};
    trace(context, &view);
  }
}

}  // namespace
}  // namespace pointsman

using namespace pointsman;  // NOLINT(google-build-using-namespace): the functions below are C's

using Lock = std::lock_guard<std::mutex>;

pm_status pm_session_new(const int32_t* layers, const float* const* vectors, size_t count, uint32_t experts,
                         pm_session** session, pm_error* error) {
  *session = nullptr;
  return Guarded(error, [&]() -> Status {
    POINTSMAN_TRY(auto by_layer, VectorsByLayer(layers, vectors, count, experts));
    auto shared = std::make_shared<const SessionVectors>(SessionVectors{.by_layer = std::move(by_layer)});
    *session = new pm_session{.vectors = std::move(shared)};
    return {};
  });
}

void pm_session_free(pm_session* session) { delete session; }

pm_router* pm_router_new(void) {
  pm_router* router = nullptr;
  return Guarded(nullptr, [&]() -> Status { return router = new pm_router, Status(); }) == PM_OK ? router : nullptr;
}

void pm_router_free(pm_router* router) { delete router; }

uint32_t pm_router_add_slot(pm_router* router, const pm_memory* memory, const pm_session* session, float strength,
                            int32_t shadow) {
  uint32_t slot = 0;
  Guarded(nullptr, [&]() -> Status {
    Binding binding{.tables = {}, .session = {}, .strength = strength, .shadow = shadow != 0};
    // The tables are a part of the memory: sharing its ownership keeps both alive.
    if (memory != nullptr) binding.tables = {memory->memory, &memory->memory->tables()};
    if (session != nullptr) binding.session = session->vectors;
    const Lock lock(router->mutex);
    slot = router->router.AddSlot(std::move(binding));
    return {};
  });
  return slot;
}

void pm_router_release_slot(pm_router* router, uint32_t slot) {
  Guarded(nullptr, [&]() -> Status {
    const Lock lock(router->mutex);
    router->router.ReleaseSlot(slot);
    return {};
  });
}

pm_status pm_router_set_strength(pm_router* router, uint32_t slot, float strength, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const Lock lock(router->mutex);
    POINTSMAN_CHECK_OK(CheckLive(router, slot));
    router->router.SetStrength(slot, strength);
    return {};
  });
}

pm_status pm_router_set_session(pm_router* router, uint32_t slot, const pm_session* session, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const Lock lock(router->mutex);
    POINTSMAN_CHECK_OK(CheckLive(router, slot));
    router->router.SetSession(slot, session == nullptr ? nullptr : session->vectors);
    return {};
  });
}

pm_status pm_router_begin_step(pm_router* router, const uint32_t* slots, const uint32_t* positions,
                               const int32_t* tokens, size_t rows, pm_step** step, pm_error* error) {
  *step = nullptr;
  return Guarded(error, [&]() -> Status {
    auto begun = std::make_unique<pm_step>();
    const Lock lock(router->mutex);
    POINTSMAN_TRY(begun->step,
                  router->router.BeginStep({slots, rows}, {positions, rows}, {tokens, tokens == nullptr ? 0 : rows}));
    begun->identity = router->identity;
    *step = begun.release();
    return {};
  });
}

void pm_step_free(pm_step* step) { delete step; }

size_t pm_step_rows(const pm_step* step) { return step->step.slots.size(); }

float* pm_step_gate(pm_step* step) { return step->step.gate.data(); }

pm_status pm_router_route(pm_router* router, pm_step* step, int32_t layer, const void* hidden, int32_t hidden_type,
                          size_t hidden_size, void* logits, int32_t logits_type, size_t experts, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    if (!IsType(hidden_type) || !IsType(logits_type)) {
      return Invalid(fmt::format("types {} and {}; pass a pm_dtype", hidden_type, logits_type));
    }
    const Lock lock(router->mutex);
    return Route(router, step,
                 {layer, hidden, static_cast<pm_dtype>(hidden_type), hidden_size, logits,
                  static_cast<pm_dtype>(logits_type), experts},
                 nullptr);
  });
}

pm_status pm_router_route_traced(pm_router* router, pm_step* step, int32_t layer, const float* hidden,
                                 size_t hidden_size, float* logits, size_t experts, pm_trace_fn trace, void* context,
                                 pm_error* error) {
  return Guarded(error, [&]() -> Status {
    std::vector<RowTrace> rows;
    {
      const Lock lock(router->mutex);
      POINTSMAN_CHECK_OK(Route(router, step, {layer, hidden, PM_F32, hidden_size, logits, PM_F32, experts}, &rows));
    }
    CallTrace(rows, trace, context);  // without the lock: it may call the router
    return {};
  });
}

pm_status pm_router_vote_output(pm_router* router, pm_step* step, const uint32_t* rows, size_t count,
                                const float* hidden, size_t hidden_size, float* logits, size_t vocabulary,
                                pm_error* error) {
  return Guarded(error, [&]() -> Status {
    POINTSMAN_CHECK_OK(CheckOwner(router, step));
    if (rows != nullptr && count == 0) return {};
    if (rows == nullptr && count != step->step.slots.size()) {
      return Invalid(fmt::format("output: {} rows for a step of {}; name the rows", count, step->step.slots.size()));
    }
    const Lock lock(router->mutex);
    return router->router.VoteOutput(step->step, {rows, rows == nullptr ? 0 : count}, {hidden, count * hidden_size},
                                     {logits, count * vocabulary});
  });
}

void pm_router_set_kill_switch(pm_router* router, int32_t off) { router->router.SetKillSwitch(off != 0); }

void pm_router_get_counters(pm_router* router, pm_counters* counters) {
  *counters = {};
  Guarded(nullptr, [&]() -> Status {
    const Lock lock(router->mutex);
    const RouterCounters now = router->router.counters();
    *counters = {now.rows, now.touched, now.written, now.gate_shut, now.voted, now.non_finite};
    return {};
  });
}

pm_status pm_router_slot_length(pm_router* router, uint32_t slot, uint32_t* length, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const Lock lock(router->mutex);
    POINTSMAN_CHECK_OK(CheckLive(router, slot));
    *length = router->router.SlotLength(slot);
    return {};
  });
}

pm_status pm_router_gate_history(pm_router* router, uint32_t slot, float* gate, uint32_t length, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const Lock lock(router->mutex);
    POINTSMAN_CHECK_OK(CheckLength(router, slot, length));
    std::ranges::fill(gate, gate + length, 0.0f);  // without memory there is no gate: 0, as in a step
    std::ranges::copy(router->router.GateHistory(slot), gate);
    return {};
  });
}

pm_status pm_router_export_gate(pm_router* router, uint32_t slot, int32_t* tokens, uint32_t length, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const Lock lock(router->mutex);
    POINTSMAN_CHECK_OK(CheckLength(router, slot, length));
    std::ranges::copy(router->router.SlotTokens(slot), tokens);
    return {};
  });
}

pm_status pm_router_import_gate(pm_router* router, uint32_t slot, const int32_t* tokens, uint32_t length,
                                pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const Lock lock(router->mutex);
    POINTSMAN_CHECK_OK(CheckLive(router, slot));
    router->router.RestoreSlot(slot, {tokens, length});
    return {};
  });
}
