#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "router/c_api.h"
#include "router/c_api_handles.h"
#include "router/shapes.h"

namespace pointsman {
namespace {

template <typename T>
const T* DataOrNull(std::span<const T> values) {
  return values.empty() ? nullptr : values.data();
}

// The two spellings of a reference are the same bytes.
static_assert(sizeof(pm_entry_ref) == sizeof(EntryRef) && sizeof(pm_neighbour) == sizeof(Neighbour));
static_assert(offsetof(pm_neighbour, row) == offsetof(Neighbour, row));

const pm_entry_ref* References(std::span<const EntryRef> references) {
  return reinterpret_cast<const pm_entry_ref*>(DataOrNull(references));
}

pm_keys KeysOf(const KeyIndexView& keys) {
  return {.hidden = keys.hidden,
          .dim = keys.dim,
          .rows = keys.rows,
          .mean = DataOrNull(keys.mean),
          .projection = DataOrNull(keys.projection),
          .codes = DataOrNull(keys.codes),
          .code_scales = DataOrNull(keys.code_scales)};
}

pm_layer LayerOf(const LayerView& view) {
  const auto& calibration = view.calibration;
  return {
      .layer = view.layer,
      .experts = view.experts,
      .keys = KeysOf(view.keys),
      .values = DataOrNull(view.values),
      .value_scales = DataOrNull(view.value_scales),
      .k = calibration.k,
      .tau = calibration.tau,
      .tau2 = calibration.tau2,
      .scale = calibration.scale,
      .confidence = static_cast<int32_t>(calibration.confidence),
      .references_per_row = static_cast<uint32_t>(view.keys.rows == 0 ? 0 : view.references.size() / view.keys.rows),
      .references = References(view.references),
      .router_delta = DataOrNull(view.router_delta),
      .token_rows = view.token_table_scales.size(),
      .token_table = DataOrNull(view.token_table),
      .token_table_scales = DataOrNull(view.token_table_scales),
      .token_ids = DataOrNull(view.token_ids)};
}

Result<const LayerView*> Layer(const pm_memory* memory, int32_t layer) {
  const LayerView* view = FindLayer(memory->memory->tables(), layer);
  if (view != nullptr) return view;
  std::string layers;
  for (const LayerView& has : memory->memory->tables().layers) layers += fmt::format(" {}", has.layer);
  return Error{ErrorCode::kNotFound,
               fmt::format("{}: has nothing for layer {}; its layers are{}", memory->path, layer, layers)};
}

Status Search(const pm_memory* memory, int32_t layer, std::span<const float> hidden, size_t hidden_size, uint32_t k,
              std::span<Neighbour> found) {
  POINTSMAN_TRY(const LayerView* view, Layer(memory, layer));
  if (hidden_size != view->keys.hidden) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("layer {}: rows of {} hidden units; the memory has {}", layer,
                                                          hidden_size, view->keys.hidden)};
  }
  if (k == 0) return Error{ErrorCode::kInvalidArgument, "k is 0; ask for 1 neighbour or more"};
  std::ranges::fill(found, Neighbour{});
  SearchExact(view->keys, hidden, k, found);
  return {};
}

void CopyText(const std::string& text, char* out, size_t capacity) {
  if (out == nullptr || capacity == 0) return;
  const size_t length = std::min(text.size(), capacity - 1);
  std::memcpy(out, text.data(), length);
  out[length] = 0;
}

}  // namespace
}  // namespace pointsman

using namespace pointsman;  // NOLINT(google-build-using-namespace): the functions below are C's

const char* pm_status_name(int32_t status) {
  constexpr const char* kNames[] = {"ok",   "invalid_argument", "not_found", "corrupt",  "mismatch", "io", "no_space",
                                    "busy", "unsupported",      "internal",  "rejected", "no_memory"};
  return status >= 0 && status < static_cast<int32_t>(std::size(kNames)) ? kNames[status] : "unknown";
}

int32_t pm_abi_version(void) { return PM_ABI_VERSION; }

const char* pm_version(void) { return POINTSMAN_VERSION; }

pm_status pm_memory_open(const char* path, const pm_open_options* options, pm_memory** memory, pm_error* error) {
  *memory = nullptr;
  std::string rejection;
  const pm_status status = Guarded(error, [&]() -> Status {
    const pm_open_options chosen = options == nullptr ? pm_open_options{} : *options;
    POINTSMAN_TRY(auto opened, Memory::Open(path, {.load_to_ram = chosen.load_to_ram != 0}));
    if (opened->manifest().verdict.verdict == "reject" && chosen.allow_rejected == 0) {
      rejection = fmt::format(
          "{}: its verdict is reject: it would make the model worse; open it with allow_rejected to use it all the "
          "same",
          path);
      return {};
    }
    std::string manifest = SerializeManifest(opened->manifest());
    *memory = new pm_memory{.memory = std::move(opened), .path = path, .manifest = std::move(manifest)};
    return {};
  });
  return rejection.empty() ? status : Fill(error, PM_REJECTED, rejection);
}

void pm_memory_close(pm_memory* memory) { delete memory; }

const char* pm_memory_path(const pm_memory* memory) { return memory->path.c_str(); }

const char* pm_memory_manifest(const pm_memory* memory) { return memory->manifest.c_str(); }

pm_status pm_memory_get_info(const pm_memory* memory, pm_memory_info* info, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const RoutingTables& tables = memory->memory->tables();
    const MemoryStats stats = memory->memory->stats();
    const LayerView* first = tables.layers.empty() ? nullptr : &tables.layers.front();
    *info = {.kind = static_cast<int32_t>(tables.kind),
             .value_kind = static_cast<int32_t>(tables.value_kind),
             .top_k = tables.top_k,
             .layer_count = static_cast<uint32_t>(tables.layers.size()),
             .hidden = first == nullptr ? 0 : first->keys.hidden,
             .experts = first == nullptr ? 0 : first->experts,
             .document_count = tables.documents.size(),
             .generation = stats.generation,
             .rows = stats.rows,
             .derived_bytes = stats.derived_bytes,
             .truth_bytes = stats.truth_bytes};
    return {};
  });
}

const char* pm_memory_document(const pm_memory* memory, uint64_t index, size_t* length) {
  const std::vector<std::string>& documents = memory->memory->tables().documents;
  if (index >= documents.size()) return nullptr;
  *length = documents[index].size();
  return documents[index].data();
}

pm_status pm_memory_check_fingerprint(const pm_memory* memory, const pm_fingerprint* model, char* warning,
                                      size_t capacity, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const auto text = [](const char* field) { return std::string(field == nullptr ? "" : field); };
    const Fingerprint fingerprint{.architecture = text(model->architecture),
                                  .config_sha256 = text(model->config_sha256),
                                  .router_sha256 = text(model->router_sha256),
                                  .tokenizer_sha256 = text(model->tokenizer_sha256),
                                  .dtype = text(model->dtype),
                                  .experts_sha256 = text(model->experts_sha256)};
    POINTSMAN_TRY(const std::string differs, memory->memory->CheckFingerprint(fingerprint));
    CopyText(differs, warning, capacity);
    return {};
  });
}

int32_t pm_memory_layer_number(const pm_memory* memory, uint32_t index) {
  const auto& layers = memory->memory->tables().layers;
  return index < layers.size() ? layers[index].layer : -1;
}

pm_status pm_memory_get_layer(const pm_memory* memory, int32_t layer, pm_layer* view, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    POINTSMAN_TRY(const LayerView* found, Layer(memory, layer));
    *view = LayerOf(*found);
    return {};
  });
}

void pm_memory_get_gate(const pm_memory* memory, pm_gate* view) {
  const GateView& gate = memory->memory->tables().gate;
  *view = {.enabled = gate.enabled,
           .n0 = gate.n0,
           .common = gate.common,
           .window = gate.window,
           .pair_count = gate.pairs.size(),
           .pairs = DataOrNull(gate.pairs),
           .is_common = DataOrNull(gate.is_common),
           .pair_groups = DataOrNull(gate.pair_groups),
           .group_count = static_cast<uint32_t>(gate.groups.size())};
}

pm_status pm_memory_get_gate_group(const pm_memory* memory, uint32_t index, pm_gate_group* view, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    const auto& groups = memory->memory->tables().gate.groups;
    if (index >= groups.size()) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("gate: group {} of {}", index, groups.size())};
    }
    const GateGroup& group = groups[index];
    *view = {.name = group.name.c_str(), .prior = group.prior, .lo = group.lo, .hi = group.hi};
    return {};
  });
}

void pm_memory_get_output(const pm_memory* memory, pm_output* view) {
  const OutputView& output = memory->memory->tables().output;
  *view = {.enabled = output.enabled,
           .vocabulary = output.vocabulary,
           .k = output.k,
           .tau = output.tau,
           .lambda = output.lambda,
           .tau2 = output.tau2,
           .keys = KeysOf(output.keys),
           .next_tokens = DataOrNull(output.next_tokens),
           .references = References(output.references)};
}

pm_status pm_memory_search(const pm_memory* memory, int32_t layer, const float* hidden, size_t rows, size_t hidden_size,
                           uint32_t k, pm_neighbour* found, pm_error* error) {
  return Guarded(error, [&]() -> Status {
    return Search(memory, layer, {hidden, rows * hidden_size}, hidden_size, k,
                  {reinterpret_cast<Neighbour*>(found), rows * k});
  });
}
