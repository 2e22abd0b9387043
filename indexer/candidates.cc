#include "indexer/candidates.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "adapt/tensors.h"
#include "adapt/token_values.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

constexpr int64_t kEntryStillRows = 128;

TrainOptions TrainingOf(const std::string& name, const CandidateOptions& options) {
  TrainOptions train;
  train.epochs = options.epochs;
  train.patience = options.patience;
  train.seed = options.seed;
  train.threads = options.threads;
  train.still = options.still;
  train.noise = options.noise;
  train.batch_sequences = options.batch_sequences;
  train.on_progress = options.on_progress;
  if (options.on_epoch) train.on_epoch = [&options, name](const EpochReport& r) { options.on_epoch(name, r); };
  return train;
}

// A trained module knows MoE layers by index, a memory by their place in the model.
void Renumber(const LossModel& model, OwnedTables& tables) {
  for (OwnedLayer& layer : tables.layers) layer.layer = model.LayerNumber(layer.layer);
}

OwnedTables EmptyTables(const LossModel& model, const ReferenceSet& set, MemoryKind kind) {
  OwnedTables tables;
  tables.kind = kind;
  tables.top_k = static_cast<uint32_t>(model.config().experts_per_token);
  tables.documents = set.names;
  return tables;
}

// What is stored for a token whose frozen logits are z and whose optimised change is d (design.md 5, value_kind).
at::Tensor StoredValues(const at::Tensor& z, const at::Tensor& d, ValueKind kind, int64_t top_k) {
  if (kind == ValueKind::kDelta) return d;
  if (kind == ValueKind::kLogits) return z + d;
  const auto [weights, experts] = (z + d).softmax(-1).topk(top_k, -1);
  return at::zeros_like(z).scatter_(-1, experts, weights / weights.sum({-1}, /*keepdim=*/true));
}

}  // namespace

StillRows MakeStillRows(const LossModel& model, std::span<const Sequence> unrelated, int threads) {
  uint64_t tokens = 0;
  for (const Sequence& s : unrelated) tokens += s.inputs.size();
  const uint64_t stride = tokens / kStillTokens + 1;
  std::vector<Sequence> some;
  for (size_t i = 0; i < unrelated.size(); i += stride) some.push_back(unrelated[i]);
  StillRows still;
  const uint64_t rows = NumberRows(some);
  if (rows == 0) return still;
  still.weight = kStillWeight;
  still.hidden = CaptureHidden(model, some, {threads, {}});
  still.ids = at::empty({static_cast<int64_t>(rows)}, at::kLong);
  int64_t* ids = still.ids.data_ptr<int64_t>();
  for (const Sequence& s : some) ids = std::copy(s.inputs.begin(), s.inputs.end(), ids);
  return still;
}

TrainingSize TrainingSizeOf(const std::string& preset, size_t sequences) {
  if (preset == "fast") return {3, 512};
  const size_t steps_an_epoch = std::max<size_t>(1, (sequences + kStepSequences - 1) / kStepSequences);
  const size_t epochs = (kTrainingSteps + steps_an_epoch - 1) / steps_an_epoch;
  return {static_cast<int>(std::clamp<size_t>(epochs, kLeastEpochs, kMostEpochs)), 2048};
}

std::string PresetOf(const Manifest& manifest) {
  const auto preset = manifest.settings.find("preset");
  return preset == manifest.settings.end() ? "default" : preset->second;
}

uint32_t PrototypeCount(uint64_t tokens) {
  const uint64_t dense = std::min<uint64_t>(std::bit_floor(tokens / 8 + 1), 1024);
  return static_cast<uint32_t>(
      std::clamp<uint64_t>(std::bit_floor(tokens / 24 + 1), std::max<uint64_t>(dense, 256), 2048));
}

Result<Candidate> TrainPrototypes(const LossModel& model, const ReferenceSet& set, PrototypeOptions prototypes,
                                  const CandidateOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  prototypes.count = std::min<uint32_t>(prototypes.count, static_cast<uint32_t>(set.tokens() / 2));
  prototypes.seed = options.seed;
  Candidate candidate{"prototypes", EmptyTables(model, set, MemoryKind::kPrototypes), 0, {}};
  POINTSMAN_TRY(std::unique_ptr<Prototypes> module, Prototypes::Create(model.config(), set.keys, prototypes));
  candidate.training = Train(model, *module, set.reference, set.calibration, TrainingOf(candidate.name, options));
  POINTSMAN_CHECK_OK(model.status());
  candidate.tables.layers = module->Export(set.hidden, set.refs);
  Renumber(model, candidate.tables);
  candidate.build_s = SecondsSince(started);
  return candidate;
}

Result<Candidate> TrainEntries(const LossModel& model, const ReferenceSet& set, EntryOptions entries,
                               const CandidateOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  entries.threads = options.threads;
  Candidate candidate{"entries", EmptyTables(model, set, MemoryKind::kEntries), 0, {}};
  POINTSMAN_TRY(std::unique_ptr<EntryValues> module,
                EntryValues::Create(model.config(), set.keys, set.hidden, set.groups, entries));
  CandidateOptions fewer = options;
  StillRows still;
  if (options.still) {  // each row is a search among all entries here
    still = *options.still;
    still.rows_per_step = kEntryStillRows;
    fewer.still = &still;
  }
  candidate.training = Train(model, *module, set.reference, set.calibration, TrainingOf(candidate.name, fewer));
  POINTSMAN_CHECK_OK(model.status());
  for (int i = 0; i < entries.rekeyings; ++i) {
    const HookFactory active = [&](const Batch& batch, std::vector<uint32_t>*) {
      return std::make_unique<ModuleHook>(*module, batch, /*training=*/true);
    };
    const std::vector<at::Tensor> hidden = CaptureHidden(model, set.reference, {options.threads, {}, active});
    POINTSMAN_CHECK_OK(model.status());
    std::vector<LayerKeys> keys;
    for (const at::Tensor& layer : hidden) {
      POINTSMAN_TRY(LayerKeys made, MakeKeys(layer, static_cast<uint32_t>(set.keys.front().keys.size(1))));
      keys.push_back(std::move(made));
    }
    module->Rekey(keys, hidden, set.groups);
    candidate.training = Train(model, *module, set.reference, set.calibration, TrainingOf(candidate.name, fewer));
    POINTSMAN_CHECK_OK(model.status());
  }
  candidate.tables.layers = module->Export(set.refs);
  Renumber(model, candidate.tables);
  candidate.build_s = SecondsSince(started);
  return candidate;
}

Result<Candidate> BuildKnn(const MoeModel& model, const ReferenceSet& set, const CandidateOptions& options) {
  constexpr float kTau = 0.5f;  // findings section 1, "the paper's memory"
  constexpr int kNeighbours = 8;
  const auto started = std::chrono::steady_clock::now();
  TokenValueOptions values;
  values.threads = options.threads;
  values.on_progress = options.on_progress;
  values.score_after = false;
  const TokenValues optimised = OptimizeTokenValues(model, set.reference, values);
  c10::AutoGradMode no_grad(false);
  Candidate candidate{"knn", EmptyTables(model, set, MemoryKind::kEntries), 0, {}};
  candidate.tables.value_kind = options.value_kind;
  for (size_t layer = 0; layer < optimised.values.size(); ++layer) {
    POINTSMAN_TRY(const LayerKeys raw, MakeKeys(set.hidden[layer], /*dim=*/0));
    OwnedLayer owned;
    owned.layer = static_cast<int32_t>(layer);
    owned.experts = static_cast<uint32_t>(model.config().num_experts);
    owned.keys = IndexOf(raw, static_cast<uint32_t>(model.config().hidden_size));
    const at::Tensor z = at::matmul(set.hidden[layer], model.RouterWeight(static_cast<int>(layer)).t());
    owned.SetValues(
        VectorOf(StoredValues(z, optimised.values[layer], options.value_kind, model.config().experts_per_token)));
    owned.references = set.refs;
    owned.calibration = {kNeighbours, kTau, kTau, 1.0f, ConfidenceRule::kMeanKernel};
    candidate.tables.layers.push_back(std::move(owned));
  }
  candidate.build_s = SecondsSince(started);
  return candidate;
}

uint64_t TableBytes(const RoutingTables& tables) {
  const auto key_bytes = [](const KeyIndexView& k) {
    return k.codes.size_bytes() + k.code_scales.size_bytes() + k.mean.size_bytes() + k.projection.size_bytes();
  };
  uint64_t bytes =
      tables.gate.pairs.size_bytes() + tables.gate.is_common.size_bytes() + tables.gate.pair_groups.size_bytes();
  for (const LayerView& l : tables.layers) {
    bytes += key_bytes(l.keys) + l.values.size_bytes() + l.value_scales.size_bytes() + l.references.size_bytes() +
             l.router_delta.size_bytes() + l.token_table.size_bytes() + l.token_table_scales.size_bytes() +
             l.token_ids.size_bytes();
  }
  const OutputView& o = tables.output;
  if (o.enabled) bytes += key_bytes(o.keys) + o.next_tokens.size_bytes() + o.references.size_bytes();
  return bytes;
}

}  // namespace pointsman
