#include "indexer/write_back.h"

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "adapt/tensors.h"
#include "memory/copy_tables.h"
#include "memory/layer_index.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

// Each layer's router inputs and what the memory changed there, while the text is read under the memory.
class ReadingHook : public RoutingHook {
 public:
  explicit ReadingHook(RoutingHook& inner) : inner_(inner) {}
  void BeginStep(const StepInfo& step) override { inner_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    const at::Tensor before = logits.clone();
    at::Tensor after = inner_.Route(layer, hidden, logits);
    hidden_.push_back(hidden);
    change_.push_back(after - before);
    return after;
  }
  Status status() const override { return inner_.status(); }
  std::vector<at::Tensor> hidden_, change_;  // [layer] = [T, H], [T, E]

 private:
  RoutingHook& inner_;
};

template <typename T>
void Append(std::vector<T>& to, const std::vector<T>& rows) {
  to.insert(to.end(), rows.begin(), rows.end());
}

void AppendRows(const at::Tensor& keys, const at::Tensor& values, OwnedLayer& layer) {
  OwnedLayer added;
  added.experts = layer.experts;
  added.keys.dim = layer.keys.dim;
  added.keys.SetKeys(VectorOf(keys));
  added.SetValues(VectorOf(values));
  Append(layer.keys.codes, added.keys.codes);
  Append(layer.keys.code_scales, added.keys.code_scales);
  Append(layer.values, added.values);
  Append(layer.value_scales, added.value_scales);
}

void AppendReferences(const OwnedTables& tables, const Sequence& text, OwnedLayer& layer) {
  if (layer.references.empty()) return;
  const auto document = static_cast<uint32_t>(tables.documents.size() - 1);
  if (tables.kind == MemoryKind::kPrototypes) {
    layer.references.resize(layer.references.size() + kPrototypeReferences);
    layer.references[layer.references.size() - kPrototypeReferences] = {document, text.position};
    return;
  }
  for (uint32_t t = 0; t < text.inputs.size(); ++t) layer.references.push_back({document, text.position + t});
}

at::Tensor KeysOf(const OwnedLayer& layer, const at::Tensor& hidden) {
  at::Tensor keys = at::empty({hidden.size(0), layer.keys.dim}, at::kFloat);
  TransformQueries(ViewOf(layer.keys), SpanOf(hidden),
                   std::span(keys.data_ptr<float>(), static_cast<size_t>(keys.numel())));
  return keys;
}

}  // namespace

Result<std::shared_ptr<const RoutingTables>> WriteBack(const MoeModel& model,
                                                       const std::shared_ptr<const RoutingTables>& tables,
                                                       const Sequence& text, const SessionVectors& vectors) {
  if (tables->value_kind != ValueKind::kDelta) {
    return Error{ErrorCode::kUnsupported,
                 "write back: the memory's values are not changes of router logits; use one built with --blend delta"};
  }
  const at::NoGradGuard no_grad;
  const std::vector<uint32_t> members{0};
  const Batch batch = MakeBatch(std::span(&text, 1), members);
  MemoryBinding binding;
  binding.tables = tables;
  ConstantMemory memory(binding, 1);
  ReadingHook reading(memory);
  model.Forward(batch.ids, {.hook = &reading, .slots = memory.slots(), .last_only = true});
  POINTSMAN_CHECK_OK(reading.status());

  OwnedTables owned = CopyTables(*tables);
  owned.documents.push_back("session");
  for (OwnedLayer& layer : owned.layers) {
    const auto index = static_cast<size_t>(layer.layer);
    if (index >= vectors.by_layer.size() || vectors.by_layer[index].empty()) continue;
    const at::Tensor vector = at::tensor(vectors.by_layer[index]) / layer.calibration.scale;
    const at::Tensor keys = KeysOf(layer, reading.hidden_[index].contiguous());
    if (owned.kind == MemoryKind::kEntries) {
      AppendRows(keys, reading.change_[index] / layer.calibration.scale + vector, layer);
    } else {
      const at::Tensor mean = keys.mean(0, /*keepdim=*/true);
      AppendRows(mean / mean.norm().clamp_min(1e-12), vector.unsqueeze(0), layer);
    }
    AppendReferences(owned, text, layer);
  }
  return MakeTables(std::move(owned));
}

}  // namespace pointsman
