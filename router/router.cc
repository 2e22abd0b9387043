#include "router/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "router/blend.h"
#include "router/confidence.h"
#include "router/context_gate.h"
#include "router/output_vote.h"
#include "router/shapes.h"
#include "router/slots.h"

namespace pointsman {
namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }

bool AllFinite(std::span<const float> values) {
  bool finite = true;
  for (const float value : values) finite &= std::fabs(value) <= std::numeric_limits<float>::max();
  return finite;
}

std::span<const float> RowOf(std::span<const float> matrix, size_t row, size_t width) {
  return matrix.subspan(row * width, width);
}

// Rows of a step that share their tables: one search answers them all.
struct Group {
  std::shared_ptr<const RoutingTables> tables;  // null: rows with a session only
  std::vector<uint32_t> rows;                   // ascending
};

}  // namespace

struct Router::Impl {
  // The arrays of one Route call.
  struct Call {
    Step& step;
    CallShape shape;
    std::span<const float> hidden;
    std::span<float> logits;
    std::vector<RowTrace>* trace;
    std::span<const int64_t> places;  // by row of the step: its row in the arrays, -1 if it has none

    std::span<const float> HiddenOf(uint32_t row) const { return RowOf(hidden, Place(row), shape.hidden); }
    std::span<float> LogitsOf(uint32_t row) const { return logits.subspan(Place(row) * shape.experts, shape.experts); }
    size_t Place(uint32_t row) const { return static_cast<size_t>(places[row]); }
  };

  Status CheckRows(std::span<const uint32_t> row_slots, std::span<const uint32_t> positions);
  float EnterStep(uint32_t row, Slot& slot, uint32_t position, int32_t token);
  Status CheckCall(const Step& step, const CallShape& shape);
  std::span<const float> Gather(const Call& call, std::span<const uint32_t> rows);
  Status CheckGates(const Step& step, const CallShape& shape) const;
  void RouteGroup(const Call& call, const Group& group);
  void RouteRow(const Call& call, uint32_t row, const Slot& slot, const LayerView* view,
                std::span<const Neighbour> found, bool finite);

  Status CheckStep(const Step& step, const std::string& where) const;
  Status PlaceRows(const Step& step, std::span<const uint32_t> rows, const std::string& where);
  Status CheckVotes(const Step& step, const CallShape& shape);
  void VoteGroup(const Step& step, const CallShape& shape, const Group& group, std::span<const float> hidden,
                 std::span<float> logits);

  SlotTable slots;
  std::atomic<bool> off{false};
  bool step_off = false;  // the switch was on at some point of this step
  uint64_t step_id = 0;
  size_t step_rows = 0;
  std::vector<Group> groups;
  RouterCounters counters;
  Blender blender;
  OutputVoter voter;
  LentThreads threads;

  // Scratch of one call, kept to save allocations.
  std::vector<int64_t> next_position;  // by slot id, -1: not in this step yet
  std::vector<uint32_t> search_rows;
  std::vector<uint8_t> finite_rows;
  std::vector<float> queries;
  std::vector<Neighbour> neighbours;
  std::vector<float> changed;
  std::vector<int64_t> places;    // by row of the step: its row in the call's arrays, -1 if it has none
  std::vector<uint32_t> present;  // rows of one group that the call has
};

Router::Router() : impl_(std::make_unique<Impl>()) {}
Router::~Router() = default;

uint32_t Router::AddSlot(Binding binding) { return impl_->slots.Add(std::move(binding)); }

void Router::ReleaseSlot(uint32_t slot) { impl_->slots.Release(slot); }

void Router::SetStrength(uint32_t slot, float strength) {
  if (Slot* live = impl_->slots.Find(slot)) live->binding.strength = ClampStrength(strength);
}

void Router::SetSession(uint32_t slot, std::shared_ptr<const SessionVectors> session) {
  if (Slot* live = impl_->slots.Find(slot)) live->binding.session = std::move(session);
}

void Router::LendThreads(LentThreads threads) { impl_->threads = std::move(threads); }

void Router::SetKillSwitch(bool off) { impl_->off.store(off); }

RouterCounters Router::counters() const { return impl_->counters; }

std::vector<float> Router::GateHistory(uint32_t slot) const {
  const Slot* live = impl_->slots.Find(slot);
  if (live == nullptr || live->binding.tables == nullptr) return {};
  const GateView& gate = live->binding.tables->gate;
  return gate.enabled ? live->gate.History(gate) : std::vector<float>(live->length, 1.0f);
}

bool Router::IsLive(uint32_t slot) const { return impl_->slots.Find(slot) != nullptr; }

uint32_t Router::SlotLength(uint32_t slot) const {
  const Slot* live = impl_->slots.Find(slot);
  return live == nullptr ? 0 : live->length;
}

std::vector<int32_t> Router::SlotTokens(uint32_t slot) const {
  const Slot* live = impl_->slots.Find(slot);
  if (live == nullptr) return {};
  std::vector<int32_t> tokens = live->gate.tokens();
  tokens.resize(live->length, kNoToken);
  return tokens;
}

void Router::RestoreSlot(uint32_t slot, std::span<const int32_t> tokens) {
  Slot* live = impl_->slots.Find(slot);
  if (live == nullptr) return;
  live->length = static_cast<uint32_t>(tokens.size());
  live->gate.Truncate(0);
  const auto& tables = live->binding.tables;
  if (tables == nullptr || !tables->gate.enabled) return;
  for (uint32_t position = 0; position < live->length; ++position) {
    live->gate.Append(tables->gate, position, tokens[position]);
  }
}

Status Router::Impl::CheckRows(std::span<const uint32_t> row_slots, std::span<const uint32_t> positions) {
  next_position.assign(slots.bound(), -1);
  for (size_t row = 0; row < row_slots.size(); ++row) {
    const uint32_t id = row_slots[row];
    if (id == 0) continue;
    const Slot* slot = slots.Find(id);
    if (slot == nullptr) return Invalid(fmt::format("row {}: slot {} is not live; call AddSlot first", row, id));
    const int64_t expected = next_position[id];
    if (expected < 0 && positions[row] > slot->length) {
      return Invalid(fmt::format("row {}: position {} of slot {} skips over unseen ones; go on at {} or below", row,
                                 positions[row], id, slot->length));
    }
    if (expected >= 0 && positions[row] != expected) {
      return Invalid(fmt::format("row {}: position {} of slot {} must be {}; pass a sequence's rows in ascending order",
                                 row, positions[row], id, expected));
    }
    next_position[id] = int64_t{positions[row]} + 1;
  }
  return {};
}

// Puts one row of a live slot into the step and returns its gate.
float Router::Impl::EnterStep(uint32_t row, Slot& slot, uint32_t position, int32_t token) {
  slot.step = step_id;
  slot.length = position + 1;
  const auto& tables = slot.binding.tables;
  auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.tables == tables; });
  if (group == groups.end()) group = groups.insert(group, Group{.tables = tables, .rows = {}});
  group->rows.push_back(row);
  if (tables == nullptr) return 0;
  return tables->gate.enabled ? slot.gate.Append(tables->gate, position, token) : 1;
}

Result<Step> Router::BeginStep(std::span<const uint32_t> slots, std::span<const uint32_t> positions,
                               std::span<const int32_t> tokens) {
  if (slots.size() != positions.size() || (!tokens.empty() && tokens.size() != slots.size())) {
    return Invalid(fmt::format("step of {} slots, {} positions and {} tokens; pass one of each a row", slots.size(),
                               positions.size(), tokens.size()));
  }
  Impl& impl = *impl_;
  POINTSMAN_CHECK_OK(impl.CheckRows(slots, positions));
  impl.groups.clear();
  impl.step_off = impl.off.load();
  impl.step_rows = slots.size();
  Step step{.slots = {slots.begin(), slots.end()},
            .positions = {positions.begin(), positions.end()},
            .tokens = {tokens.begin(), tokens.end()},
            .gate = std::vector<float>(slots.size(), 0.0f),
            .id = ++impl.step_id};
  for (uint32_t row = 0; row < slots.size(); ++row) {
    if (slots[row] == 0) continue;
    const int32_t token = tokens.empty() ? kNoToken : tokens[row];
    step.gate[row] = impl.EnterStep(row, *impl.slots.Find(slots[row]), positions[row], token);
  }
  return step;
}

Status Router::Impl::CheckCall(const Step& step, const CallShape& shape) {
  for (const Group& group : groups) {
    if (group.tables != nullptr) POINTSMAN_CHECK_OK(CheckTablesFit(*group.tables, shape));
    for (const uint32_t row : group.rows) {
      const Slot* slot = slots.Find(step.slots[row]);
      if (slot == nullptr || slot->step != step.id) {
        return Invalid(
            fmt::format("row {}: slot {} was released during the step; begin a new step", row, step.slots[row]));
      }
      POINTSMAN_CHECK_OK(CheckSessionFits(slot->binding.session.get(), shape));
    }
  }
  return {};
}

// The hidden states of `rows` as one matrix: a view where they lie side by side, else a copy.
std::span<const float> Router::Impl::Gather(const Call& call, std::span<const uint32_t> rows) {
  const size_t width = call.shape.hidden;
  if (rows.empty()) return {};
  if (call.Place(rows.back()) - call.Place(rows.front()) + 1 == rows.size()) {
    return call.hidden.subspan(call.Place(rows.front()) * width, rows.size() * width);
  }
  queries.resize(rows.size() * width);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::ranges::copy(call.HiddenOf(rows[i]), queries.begin() + static_cast<ptrdiff_t>(i * width));
  }
  return queries;
}

Status Router::Impl::CheckGates(const Step& step, const CallShape& shape) const {
  for (const Group& group : groups) {
    if (group.tables == nullptr || FindLayer(*group.tables, shape.layer) == nullptr) continue;
    for (const uint32_t row : group.rows) {
      if (const float gate = step.gate[row]; !(gate >= 0 && gate <= 1)) {
        return Invalid(fmt::format("layer {}: row {} has the gate {}; set it within 0..1", shape.layer, row, gate));
      }
    }
  }
  return {};
}

void Router::Impl::RouteGroup(const Call& call, const Group& group) {
  const CallShape& shape = call.shape;
  const LayerView* view = group.tables == nullptr ? nullptr : FindLayer(*group.tables, shape.layer);
  search_rows.clear();
  finite_rows.clear();
  present.clear();
  std::ranges::copy_if(group.rows, std::back_inserter(present), [&](uint32_t row) { return call.places[row] >= 0; });
  for (const uint32_t row : present) {
    const bool finite = AllFinite(call.HiddenOf(row)) && AllFinite(call.LogitsOf(row));
    finite_rows.push_back(finite);
    const float strength = slots.Find(call.step.slots[row])->binding.strength;
    if (view != nullptr && finite && strength * call.step.gate[row] > 0) search_rows.push_back(row);
  }
  const int64_t rows = view == nullptr ? 0 : static_cast<int64_t>(view->keys.rows);
  const auto k = static_cast<uint32_t>(view == nullptr ? 0 : std::clamp<int64_t>(view->calibration.k, 0, rows));
  neighbours.assign(search_rows.size() * k, Neighbour{});
  if (!neighbours.empty()) SearchExact(view->keys, Gather(call, search_rows), k, neighbours, threads);

  size_t searched = 0;
  for (size_t i = 0; i < present.size(); ++i) {
    const uint32_t row = present[i];
    std::span<const Neighbour> found;
    if (searched < search_rows.size() && search_rows[searched] == row) {
      found = FoundNeighbours(std::span(neighbours).subspan(searched++ * k, k));
    }
    RouteRow(call, row, *slots.Find(call.step.slots[row]), view, found, finite_rows[i] != 0);
  }
}

void Router::Impl::RouteRow(const Call& call, uint32_t row, const Slot& slot, const LayerView* view,
                            std::span<const Neighbour> found, bool finite) {
  const auto session = SessionVector(slot.binding.session.get(), call.shape.layer);
  if (view == nullptr && session.empty()) return;
  const float gate = call.step.gate[row];
  const auto before = call.LogitsOf(row);
  changed.assign(before.begin(), before.end());
  BlendOutcome outcome;
  if (view != nullptr && finite) {
    const BlendInput input{.neighbours = found,
                           .hidden = call.HiddenOf(row),
                           .token = call.step.tokens.empty() ? kNoToken : call.step.tokens[row],
                           .strength = slot.binding.strength,
                           .gate = gate};
    outcome = blender.Blend(*view, slot.binding.tables->value_kind, slot.binding.tables->top_k, input, changed);
  }
  if (finite) {
    for (size_t e = 0; e < session.size(); ++e) changed[e] += session[e];
  }
  finite = finite && AllFinite(changed);
  const bool written = finite && (outcome.touched || !session.empty()) && !slot.binding.shadow;
  counters.rows += 1;
  counters.touched += outcome.touched;
  counters.written += written;
  counters.gate_shut += view != nullptr && gate == 0;
  counters.non_finite += !finite;
  if (call.trace != nullptr) {
    RowTrace entry{.row = row,
                   .layer = call.shape.layer,
                   .gate = gate,
                   .confidence = outcome.confidence,
                   .written = written,
                   .neighbours = {found.begin(), found.end()},
                   .logits_before = {before.begin(), before.end()},
                   .logits_after = {}};
    entry.logits_after = finite ? changed : entry.logits_before;
    call.trace->push_back(std::move(entry));
  }
  if (written) std::ranges::copy(changed, before.begin());
}

Status Router::Impl::CheckStep(const Step& step, const std::string& where) const {
  const size_t rows = step.slots.size();
  if (step.id == step_id && rows == step_rows && step.gate.size() == rows && step.positions.size() == rows &&
      (step.tokens.empty() || step.tokens.size() == rows)) {
    return {};
  }
  return Invalid(fmt::format("{}: the step is stale or was altered; call BeginStep before Route", where));
}

// Fills `places` for arrays that hold the given rows of the step, in their order; empty: all.
Status Router::Impl::PlaceRows(const Step& step, std::span<const uint32_t> rows, const std::string& where) {
  places.assign(step.slots.size(), -1);
  const size_t count = rows.empty() ? step.slots.size() : rows.size();
  for (size_t i = 0; i < count; ++i) {
    const size_t row = rows.empty() ? i : rows[i];
    if (row >= step.slots.size() || (i > 0 && !rows.empty() && rows[i - 1] >= row)) {
      return Invalid(
          fmt::format("{}: row {} of a step of {}; pass its rows in ascending order", where, row, step.slots.size()));
    }
    places[row] = static_cast<int64_t>(i);
  }
  return {};
}

Status Router::Route(Step& step, int32_t layer, std::span<const float> hidden, std::span<float> logits,
                     std::vector<RowTrace>* trace, std::span<const uint32_t> rows) {
  Impl& impl = *impl_;
  const std::string where = fmt::format("layer {}", layer);
  POINTSMAN_CHECK_OK(impl.CheckStep(step, where));
  if (impl.off.load()) impl.step_off = true;
  if (impl.step_off) return {};
  POINTSMAN_CHECK_OK(impl.PlaceRows(step, rows, where));
  const size_t count = rows.empty() ? step.slots.size() : rows.size();
  POINTSMAN_TRY(const CallShape shape, MakeCallShape(layer, count, hidden.size(), logits.size()));
  POINTSMAN_CHECK_OK(impl.CheckCall(step, shape));
  POINTSMAN_CHECK_OK(impl.CheckGates(step, shape));

  const Impl::Call call{
      .step = step, .shape = shape, .hidden = hidden, .logits = logits, .trace = trace, .places = impl.places};
  const size_t first = trace == nullptr ? 0 : trace->size();
  for (const Group& group : impl.groups) impl.RouteGroup(call, group);
  if (trace != nullptr) {
    std::sort(trace->begin() + static_cast<ptrdiff_t>(first), trace->end(),
              [](const RowTrace& a, const RowTrace& b) { return a.row < b.row; });
  }
  return {};
}

Status Router::Impl::CheckVotes(const Step& step, const CallShape& shape) {
  for (const Group& group : groups) {
    if (group.tables == nullptr || !group.tables->output.enabled) continue;
    POINTSMAN_CHECK_OK(CheckOutputFits(group.tables->output, shape));
    for (const uint32_t row : group.rows) {
      if (places[row] < 0) continue;
      const Slot* slot = slots.Find(step.slots[row]);
      if (slot == nullptr || slot->step != step.id) {
        return Invalid(fmt::format("output: slot {} of row {} was released during the step; begin a new step",
                                   step.slots[row], row));
      }
      if (!(step.gate[row] >= 0 && step.gate[row] <= 1)) {
        return Invalid(fmt::format("output: row {} has the gate {}; set it within 0..1", row, step.gate[row]));
      }
    }
  }
  return {};
}

void Router::Impl::VoteGroup(const Step& step, const CallShape& shape, const Group& group,
                             std::span<const float> hidden, std::span<float> logits) {
  const OutputView& output = group.tables->output;
  const auto weight = [&](uint32_t row) {
    return double{output.lambda} * slots.Find(step.slots[row])->binding.strength * step.gate[row];
  };
  search_rows.clear();  // rows of the step
  queries.clear();
  for (const uint32_t row : group.rows) {
    if (places[row] < 0 || !(weight(row) > 0)) continue;
    const auto query = RowOf(hidden, places[row], shape.hidden);
    if (!AllFinite(query) || !AllFinite(RowOf(logits, places[row], shape.experts))) {
      counters.non_finite += 1;
      continue;
    }
    search_rows.push_back(row);
    queries.insert(queries.end(), query.begin(), query.end());
  }
  const auto k = static_cast<uint32_t>(std::clamp<int64_t>(output.k, 0, static_cast<int64_t>(output.keys.rows)));
  neighbours.assign(search_rows.size() * k, Neighbour{});
  if (!neighbours.empty()) SearchExact(output.keys, queries, k, neighbours, threads);
  for (size_t i = 0; i < search_rows.size(); ++i) {
    const uint32_t row = search_rows[i];
    if (slots.Find(step.slots[row])->binding.shadow) continue;
    counters.voted += voter.Vote(output, std::span(neighbours).subspan(i * k, k), weight(row),
                                 logits.subspan(places[row] * shape.experts, shape.experts));
  }
}

Status Router::VoteOutput(const Step& step, std::span<const uint32_t> rows, std::span<const float> hidden,
                          std::span<float> logits) {
  Impl& impl = *impl_;
  POINTSMAN_CHECK_OK(impl.CheckStep(step, "output"));
  if (impl.off.load()) impl.step_off = true;
  if (impl.step_off) return {};
  POINTSMAN_CHECK_OK(impl.PlaceRows(step, rows, "output"));
  const size_t count = rows.empty() ? step.slots.size() : rows.size();
  POINTSMAN_TRY(const CallShape shape, MakeCallShape(kOutputLayer, count, hidden.size(), logits.size()));
  POINTSMAN_CHECK_OK(impl.CheckVotes(step, shape));
  for (const Group& group : impl.groups) {
    if (group.tables != nullptr && group.tables->output.enabled) impl.VoteGroup(step, shape, group, hidden, logits);
  }
  return {};
}

}  // namespace pointsman
