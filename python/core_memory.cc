// pointsman._core.Memory: a memory's tables as arrays that are views of it, read-only, and None for what is not there.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "core_arrays.h"
#include "core_handles.h"

namespace pointsman::python {
namespace {

using namespace nb::literals;

// ---- what leaves: views that keep `owner` alive ----

template <typename T>
nb::object View(const T* data, std::vector<size_t> shape, nb::handle owner) {
  if (data == nullptr) return nb::none();
  return nb::cast(nb::ndarray<nb::numpy, const T>(data, shape.size(), shape.data(), owner));
}

void PutKeys(nb::dict& out, const pm_keys& keys, nb::handle owner) {
  out["mean"] = View(keys.mean, {keys.hidden}, owner);
  out["projection"] = View(keys.projection, {keys.dim, keys.hidden}, owner);
  out["codes"] = View(keys.codes, {keys.rows, keys.dim}, owner);
  out["code_scales"] = View(keys.code_scales, {keys.rows}, owner);
}

nb::object ReferencesView(const pm_entry_ref* references, uint64_t rows, uint64_t per_row, nb::handle owner) {
  return View(reinterpret_cast<const uint32_t*>(references), {rows, per_row, 2}, owner);
}

const char* ConfidenceName(int32_t confidence) {
  constexpr const char* kNames[] = {"mean_similarity", "max_similarity", "mean_kernel", "aggregate"};
  return kNames[confidence & 3];
}

// ---- memory ----

Memory OpenMemory(const std::string& path, bool allow_rejected, bool load_to_ram) {
  pm_error error;
  pm_memory* memory = nullptr;
  const pm_open_options options = {.allow_rejected = allow_rejected, .load_to_ram = load_to_ram};
  pm_status status;
  {
    nb::gil_scoped_release released;
    status = pm_memory_open(path.c_str(), &options, &memory, &error);
  }
  Check(status, error);
  return Memory(memory);
}

nb::dict MemoryInfo(const Memory& memory) {
  pm_error error;
  pm_memory_info info;
  Check(pm_memory_get_info(memory.handle.get(), &info, &error), error);
  nb::dict out;
  out["kind"] = info.kind == 0 ? "entries" : "prototypes";
  out["value_kind"] = info.value_kind == 0 ? "delta" : info.value_kind == 1 ? "logits" : "assignments";
  out["top_k"] = info.top_k;
  out["hidden_size"] = info.hidden;
  out["experts"] = info.experts;
  out["documents"] = info.document_count;
  out["generation"] = info.generation;
  out["rows"] = info.rows;
  out["derived_bytes"] = info.derived_bytes;
  out["truth_bytes"] = info.truth_bytes;
  return out;
}

std::vector<int32_t> MemoryLayers(const Memory& memory) {
  std::vector<int32_t> layers;
  for (uint32_t i = 0;; ++i) {
    const int32_t layer = pm_memory_layer_number(memory.handle.get(), i);
    if (layer < 0) return layers;
    layers.push_back(layer);
  }
}

nb::list MemoryDocuments(const Memory& memory) {
  nb::list names;
  size_t length = 0;
  for (uint64_t i = 0;; ++i) {
    const char* name = pm_memory_document(memory.handle.get(), i, &length);
    if (name == nullptr) return names;
    names.append(nb::steal(PyUnicode_DecodeUTF8(name, static_cast<Py_ssize_t>(length), "surrogateescape")));
  }
}

nb::dict LayerTables(nb::object self, int32_t number) {
  pm_error error;
  pm_layer layer;
  Check(pm_memory_get_layer(nb::cast<const Memory&>(self).handle.get(), number, &layer, &error), error);
  nb::dict out;
  PutKeys(out, layer.keys, self);
  out["values"] = View(layer.values, {layer.keys.rows, layer.experts}, self);
  out["value_scales"] = View(layer.value_scales, {layer.keys.rows}, self);
  out["references"] = ReferencesView(layer.references, layer.keys.rows, layer.references_per_row, self);
  out["router_delta"] = View(layer.router_delta, {layer.experts, layer.keys.hidden}, self);
  out["token_table"] = View(layer.token_table, {layer.token_rows, layer.experts}, self);
  out["token_table_scales"] = View(layer.token_table_scales, {layer.token_rows}, self);
  out["token_ids"] = View(layer.token_ids, {layer.token_rows}, self);
  out["k"] = layer.k;
  out["tau"] = layer.tau;
  out["tau2"] = layer.tau2;
  out["scale"] = layer.scale;
  out["confidence"] = ConfidenceName(layer.confidence);
  return out;
}

nb::dict GateTables(nb::object self) {
  pm_gate gate;
  pm_memory_get_gate(nb::cast<const Memory&>(self).handle.get(), &gate);
  nb::dict out;
  out["enabled"] = gate.enabled != 0;
  out["n0"] = gate.n0;
  out["common"] = gate.common;
  out["window"] = gate.window;
  out["pairs"] = View(gate.pairs, {gate.pair_count}, self);
  out["is_common"] = View(gate.is_common, {gate.pair_count}, self);
  out["pair_groups"] = View(gate.pair_groups, {gate.pair_count}, self);
  nb::list groups;
  for (uint32_t index = 0; index < gate.group_count; ++index) {
    pm_error error;
    pm_gate_group group;
    Check(pm_memory_get_gate_group(nb::cast<const Memory&>(self).handle.get(), index, &group, &error), error);
    nb::dict item;
    item["name"] = group.name;
    item["prior"] = group.prior;
    item["lo"] = group.lo;
    item["hi"] = group.hi;
    groups.append(item);
  }
  out["groups"] = groups;
  return out;
}

nb::object OutputTables(nb::object self) {
  pm_output output;
  pm_memory_get_output(nb::cast<const Memory&>(self).handle.get(), &output);
  if (!output.enabled) return nb::none();
  nb::dict out;
  PutKeys(out, output.keys, self);
  out["vocabulary"] = output.vocabulary;
  out["k"] = output.k;
  out["tau"] = output.tau;
  out["lambda"] = output.lambda;
  out["tau2"] = output.tau2;
  out["next_tokens"] = View(output.next_tokens, {output.keys.rows}, self);
  out["references"] = ReferencesView(output.references, output.keys.rows, 1, self);
  return out;
}

// The neighbours of `rows` queries as two arrays [rows, k] over one buffer.
nb::tuple Neighbours(std::unique_ptr<std::vector<pm_neighbour>> found, size_t rows, size_t k) {
  std::vector<pm_neighbour>* buffer = found.release();
  nb::capsule owner(buffer, [](void* p) noexcept { delete static_cast<std::vector<pm_neighbour>*>(p); });
  const size_t shape[] = {rows, k};
  const int64_t strides[] = {static_cast<int64_t>(2 * k), 2};  // in elements: similarity and row alternate
  const auto* first = reinterpret_cast<const float*>(buffer->data());
  return nb::make_tuple(
      nb::ndarray<nb::numpy, const float>(first, 2, shape, owner, strides),
      nb::ndarray<nb::numpy, const uint32_t>(reinterpret_cast<const uint32_t*>(first) + 1, 2, shape, owner, strides));
}

nb::tuple Search(const Memory& memory, int32_t layer, nb::handle queries, uint32_t k) {
  const Matrix hidden = MatrixOf("hidden", queries, Access::kRead, /*only_float32=*/true);
  pm_error error;
  pm_status status;
  auto found = std::make_unique<std::vector<pm_neighbour>>(hidden.rows * k);
  {
    nb::gil_scoped_release released;
    status = pm_memory_search(memory.handle.get(), layer, static_cast<const float*>(hidden.data), hidden.rows,
                              hidden.columns, k, found->data(), &error);
  }
  Check(status, error);
  return Neighbours(std::move(found), hidden.rows, k);
}

std::string CheckFingerprint(const Memory& memory, const std::string& architecture, const std::string& config,
                             const std::string& router, const std::string& tokenizer, const std::string& dtype,
                             const std::string& experts) {
  const pm_fingerprint model = {architecture.c_str(), config.c_str(), router.c_str(),
                                tokenizer.c_str(),    dtype.c_str(),  experts.c_str()};
  pm_error error;
  char warning[1024];
  Check(pm_memory_check_fingerprint(memory.handle.get(), &model, warning, sizeof warning, &error), error);
  return warning;
}

}  // namespace

void BindMemory(nb::module_& module) {
  nb::class_<Memory>(module, "Memory")
      .def_static("open", &OpenMemory, "path"_a, "allow_rejected"_a, "load_to_ram"_a)
      .def_prop_ro("path", [](const Memory& memory) { return pm_memory_path(memory.handle.get()); })
      .def_prop_ro("manifest", [](const Memory& memory) { return pm_memory_manifest(memory.handle.get()); })
      .def("info", &MemoryInfo)
      .def("layers", &MemoryLayers)
      .def("documents", &MemoryDocuments)
      .def("layer", &LayerTables, "number"_a)
      .def("gate", &GateTables)
      .def("output", &OutputTables)
      .def("search", &Search, "layer"_a, "hidden"_a.none(), "k"_a)
      .def("check_fingerprint", &CheckFingerprint, "architecture"_a, "config_sha256"_a, "router_sha256"_a,
           "tokenizer_sha256"_a, "dtype"_a, "experts_sha256"_a);
}

}  // namespace pointsman::python
