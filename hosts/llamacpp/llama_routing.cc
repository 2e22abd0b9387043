#include "hosts/llamacpp/llama_routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "hosts/llamacpp/batch_rows.h"
#include "hosts/llamacpp/graph_tensor.h"
#include "router/blend.h"
#include "router/shapes.h"

namespace pointsman {
namespace {

// Held to our own runtime or to transformers in tests/test_llamacpp.py.
constexpr std::array<std::string_view, 3> kArchitectures = {"olmoe", "qwen2moe", "qwen3moe"};
constexpr std::string_view kOutputLogits = "result_output";

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }
Error Wrong(std::string message) {
  return Error{ErrorCode::kInternal,
               "llama.cpp: " + std::move(message) + "; the sequences of this batch must be cleared"};
}

std::string MetaText(const llama_model* model, const std::string& key) {
  char text[128] = "";
  const int32_t length = llama_model_meta_val_str(model, key.c_str(), text, sizeof(text));
  return length < 0 ? std::string() : std::string(text);
}

uint32_t MetaNumber(const llama_model* model, const std::string& key) {
  return static_cast<uint32_t>(std::strtoul(MetaText(model, key).c_str(), nullptr, 10));
}

struct Sequence {
  Binding binding;
  uint32_t slot = 0;            // of the router; 0: not bound
  uint32_t entered = 0;         // positions that the slot's gate has read
  std::vector<int32_t> tokens;  // by position, -1: not known
};

}  // namespace

struct LlamaRouting::Impl {
  static bool Callback(ggml_tensor* tensor, bool ask, void* self);
  bool Asks(const ggml_tensor* tensor);
  void Computed(const ggml_tensor* tensor);

  // null: not bound
  Sequence* Find(llama_seq_id id) {
    const auto found = sequences.find(id);
    return found == sequences.end() || found->second.slot == 0 ? nullptr : &found->second;
  }
  Status Prepare(const llama_context* context, const llama_batch& batch);
  Status CatchUp(Sequence& sequence, uint32_t position);
  Status EnterMicroBatch(const std::vector<int32_t>& found);
  Status CheckPositions(const std::vector<int32_t>& found);
  Status CheckLayersCalled() const;
  Status RouteLayer(int32_t layer, const ggml_tensor* logits);
  Status Vote(const ggml_tensor* logits);
  // The step's rows that a tensor of `count` rows has; empty: all.
  Result<std::span<const uint32_t>> RowsOf(size_t count, std::string_view where) const;
  void Note(const Status& status) {
    if (!status.ok() && failure.ok()) failure = status;
  }

  uint32_t hidden = 0, experts = 0, vocabulary = 0;
  std::vector<int32_t> layers;
  Router router;
  std::map<llama_seq_id, Sequence> sequences;
  LlamaCounters counters;
  RouterRecorder recorder;  // null: nobody records
  bool bypassed = false;

  // The batch in progress.
  bool decoding = false;
  bool bound = false;   // some row has a binding
  bool voting = false;  // .. with an output memory
  Status failure;
  std::vector<llama_seq_id> owners;  // [N] of the batch, first sequence of each row
  std::vector<uint32_t> slots, positions;
  std::vector<int32_t> tokens;
  // The micro-batch in progress: rows [first, last) of the batch.
  size_t first = 0, last = 0;
  Step step;
  size_t layers_called = 0;
  bool positions_agree = false;
  std::vector<uint32_t> output_rows;  // of the step: those that the last layer computes
};

std::vector<std::string> LlamaRouting::SupportedArchitectures() {
  return {kArchitectures.begin(), kArchitectures.end()};
}

LlamaRouting::LlamaRouting(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LlamaRouting::~LlamaRouting() = default;

Result<std::unique_ptr<LlamaRouting>> LlamaRouting::Create(const llama_model* model) {
  const std::string architecture = MetaText(model, "general.architecture");
  if (std::ranges::find(kArchitectures, architecture) == kArchitectures.end()) {
    return Error{ErrorCode::kUnsupported, fmt::format("architecture '{}' was not tested with a memory in llama.cpp; {} "
                                                      "was",
                                                      architecture, fmt::join(kArchitectures, ", "))};
  }
  auto impl = std::make_unique<Impl>();
  impl->hidden = static_cast<uint32_t>(llama_model_n_embd(model));
  impl->experts = MetaNumber(model, architecture + ".expert_count");
  impl->vocabulary = static_cast<uint32_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  if (impl->experts == 0) return Error{ErrorCode::kUnsupported, "the model has no experts: there is nothing to route"};
  const auto dense = static_cast<int32_t>(MetaNumber(model, architecture + ".leading_dense_block_count"));
  for (int32_t layer = dense; layer < llama_model_n_layer(model); ++layer) impl->layers.push_back(layer);
  return std::unique_ptr<LlamaRouting>(new LlamaRouting(std::move(impl)));
}

Status LlamaRouting::Install(llama_context_params& params) {
  if (params.cb_eval != nullptr) return Invalid("cb_eval: another callback is installed; a context has room for one");
  if (params.n_seq_max > 1 && !params.kv_unified) {
    return Invalid(
        fmt::format("n_seq_max is {} and kv_unified is off: llama.cpp then orders the rows of a batch anew; "
                    "set kv_unified",
                    params.n_seq_max));
  }
  params.cb_eval = &Impl::Callback;
  params.cb_eval_user_data = impl_.get();
  return {};
}

Status LlamaRouting::Bind(llama_seq_id sequence, Binding binding) {
  Impl& impl = *impl_;
  for (const int32_t layer : impl.layers) {
    const CallShape shape{.layer = layer, .rows = 1, .hidden = impl.hidden, .experts = impl.experts};
    if (binding.tables != nullptr) POINTSMAN_CHECK_OK(CheckTablesFit(*binding.tables, shape));
    POINTSMAN_CHECK_OK(CheckSessionFits(binding.session.get(), shape));
  }
  if (binding.tables != nullptr) {
    for (const LayerView& view : binding.tables->layers) {
      if (std::ranges::find(impl.layers, view.layer) != impl.layers.end()) continue;
      return Invalid(
          fmt::format("layer {}: the memory has it and the model has no router there; bind a memory that was "
                      "built for this model",
                      view.layer));
    }
    if (binding.tables->output.enabled) {
      POINTSMAN_CHECK_OK(
          CheckOutputFits(binding.tables->output,
                          {.layer = kOutputLayer, .rows = 1, .hidden = impl.hidden, .experts = impl.vocabulary}));
    }
  }
  Sequence& entry = impl.sequences[sequence];
  if (entry.slot != 0) impl.router.ReleaseSlot(entry.slot);
  entry.slot = impl.router.AddSlot(binding);
  entry.binding = std::move(binding);
  entry.entered = 0;
  return {};
}

void LlamaRouting::Unbind(llama_seq_id sequence) {
  Sequence* found = impl_->Find(sequence);
  if (found == nullptr) return;
  impl_->router.ReleaseSlot(found->slot);
  found->slot = 0;
  found->binding = {};
}

void LlamaRouting::SetStrength(llama_seq_id sequence, float strength) {
  if (const Sequence* found = impl_->Find(sequence)) impl_->router.SetStrength(found->slot, strength);
}

void LlamaRouting::SetSession(llama_seq_id sequence, std::shared_ptr<const SessionVectors> session) {
  if (const Sequence* found = impl_->Find(sequence)) impl_->router.SetSession(found->slot, std::move(session));
}

void LlamaRouting::CopySequence(llama_seq_id from, llama_seq_id to) {
  impl_->sequences[to].tokens = impl_->sequences[from].tokens;
  impl_->sequences[to].entered = 0;
}

void LlamaRouting::SetKillSwitch(bool off) { impl_->router.SetKillSwitch(off); }
void LlamaRouting::SetRecorder(RouterRecorder recorder) { impl_->recorder = std::move(recorder); }
const std::vector<int32_t>& LlamaRouting::layers() const { return impl_->layers; }
LlamaCounters LlamaRouting::counters() const { return impl_->counters; }
RouterCounters LlamaRouting::router_counters() const { return impl_->router.counters(); }

std::vector<float> LlamaRouting::GateHistory(llama_seq_id sequence) const {
  const Sequence* found = impl_->Find(sequence);
  return found == nullptr ? std::vector<float>() : impl_->router.GateHistory(found->slot);
}

Result<int32_t> LlamaRouting::Decode(llama_context* context, llama_batch batch) {
  Impl& impl = *impl_;
  POINTSMAN_CHECK_OK(impl.Prepare(context, batch));
  impl.decoding = true;
  const int32_t code = llama_decode(context, batch);
  impl.decoding = false;
  if (code == 0 && impl.bound) {
    if (impl.last < impl.tokens.size()) {
      impl.Note(Wrong(fmt::format("{} of {} rows reached the callback; install it before the context is made",
                                  impl.last, impl.tokens.size())));
    }
    impl.Note(impl.CheckLayersCalled());
  }
  impl.counters.batches += 1;
  if (!impl.failure.ok()) return impl.failure.error();
  return code;
}

// Rows and gates of the batch; nothing of llama.cpp is touched.
Status LlamaRouting::Impl::Prepare(const llama_context* context, const llama_batch& batch) {
  if (std::exchange(bypassed, false)) {
    return Invalid(
        "an earlier batch was given to llama_decode while sequences were bound, so it was not routed; clear "
        "those sequences and decode them with Decode");
  }
  POINTSMAN_TRY(const std::vector<BatchRow> rows, ReadBatch(batch, [&](llama_seq_id sequence) {
                  return static_cast<uint32_t>(llama_memory_seq_pos_max(llama_get_memory(context), sequence) + 1);
                }));
  POINTSMAN_CHECK_OK(CheckBoundRows(rows, [&](llama_seq_id sequence) { return Find(sequence) != nullptr; }));
  bound = voting = false;
  failure = {};
  first = last = layers_called = 0;
  owners.clear();
  slots.clear();
  positions.clear();
  tokens.clear();
  std::set<llama_seq_id> begun;
  for (const BatchRow& row : rows) {
    Sequence& owner = sequences[row.sequences.front()];
    if (owner.slot != 0) {
      if (begun.insert(row.sequences.front()).second) POINTSMAN_CHECK_OK(CatchUp(owner, row.position));
      bound = true;
      voting |= owner.binding.tables != nullptr && owner.binding.tables->output.enabled;
    }
    owners.push_back(row.sequences.front());
    slots.push_back(owner.slot);
    positions.push_back(row.position);
    tokens.push_back(row.token);
  }
  for (const BatchRow& row : rows) {
    for (const llama_seq_id id : row.sequences) {
      std::vector<int32_t>& known = sequences[id].tokens;
      known.resize(row.position, kNoToken);
      known.push_back(row.token);
    }
  }
  return {};
}

// The gate reads what stands before `position` and what it has not read yet: the sequence was bound later, or copied.
Status LlamaRouting::Impl::CatchUp(Sequence& sequence, uint32_t position) {
  if (position <= sequence.entered) return {};
  std::vector<uint32_t> missing(position - sequence.entered);
  std::vector<int32_t> text;
  for (size_t i = 0; i < missing.size(); ++i) {
    missing[i] = sequence.entered + static_cast<uint32_t>(i);
    text.push_back(missing[i] < sequence.tokens.size() ? sequence.tokens[missing[i]] : kNoToken);
  }
  const std::vector<uint32_t> same(missing.size(), sequence.slot);
  POINTSMAN_TRY([[maybe_unused]] const Step read, router.BeginStep(same, missing, text));
  sequence.entered = position;
  return {};
}

// Runs inside llama_decode, which is C: nothing may be thrown through it.
bool LlamaRouting::Impl::Callback(ggml_tensor* tensor, bool ask, void* self) {
  auto& impl = *static_cast<Impl*>(self);
  try {
    if (ask) return impl.Asks(tensor);
    impl.Computed(tensor);
  } catch (const std::exception& error) {
    impl.Note(Wrong(fmt::format("the callback failed: {}", error.what())));
  }
  return true;
}

// Is `tensor` wanted once it is computed? Nothing after it has run, so the inputs that it reads are still in place.
bool LlamaRouting::Impl::Asks(const ggml_tensor* tensor) {
  if (const ggml_tensor* found = InputOperand(tensor, GGML_OP_GET_ROWS, "inp_tokens")) {
    if (!decoding) bypassed |= std::ranges::any_of(sequences, [](const auto& entry) { return entry.second.slot != 0; });
    // A second look-up of the same tokens is an adapter's.
    const bool is_adapter = last > first && layers_called == 0;
    if (decoding && bound && failure.ok() && !is_adapter) Note(EnterMicroBatch(ReadInts(found)));
  }
  if (!decoding || !bound || !failure.ok()) return false;
  if (const ggml_tensor* found = InputOperand(tensor, GGML_OP_ROPE, "inp_pos"); found != nullptr && !positions_agree) {
    Note(CheckPositions(ReadInts(found)));
  }
  if (const ggml_tensor* found = InputOperand(tensor, GGML_OP_GET_ROWS, "out_ids")) {
    const std::vector<int32_t> rows = ReadInts(found);
    output_rows.assign(rows.begin(), rows.end());
  }
  return RouterLogitsLayer(tensor) >= 0 || (voting && tensor->name == kOutputLogits);
}

Status LlamaRouting::Impl::EnterMicroBatch(const std::vector<int32_t>& found) {
  if (last > first) POINTSMAN_CHECK_OK(CheckLayersCalled());
  first = last;
  const bool agrees = first + found.size() <= tokens.size() &&
                      std::equal(found.begin(), found.end(), tokens.begin() + static_cast<ptrdiff_t>(first));
  if (!agrees) return Wrong(fmt::format("the {} tokens after row {} are not the batch's", found.size(), first));
  last = first + found.size();
  const auto part = [&](const auto& all) { return std::span(all).subspan(first, last - first); };
  POINTSMAN_TRY(step, router.BeginStep(part(slots), part(positions), part(tokens)));
  for (size_t row = first; row < last; ++row) {
    if (slots[row] != 0) sequences[owners[row]].entered = positions[row] + 1;
  }
  layers_called = 0;
  positions_agree = false;
  output_rows.clear();
  return {};
}

Status LlamaRouting::Impl::CheckPositions(const std::vector<int32_t>& found) {
  const auto expected = std::span(positions).subspan(first, last - first);
  positions_agree = std::equal(found.begin(), found.end(), expected.begin(), expected.end(),
                               [](int32_t a, uint32_t b) { return a >= 0 && static_cast<uint32_t>(a) == b; });
  return positions_agree ? Status()
                         : Status(Wrong(fmt::format("the positions of the rows after {} are not the batch's", first)));
}

Status LlamaRouting::Impl::CheckLayersCalled() const {
  if (layers_called == layers.size()) return {};
  return Wrong(fmt::format("the router logits of layer {} were not seen: {} of {} MoE layers were routed",
                           layers[layers_called], layers_called, layers.size()));
}

// Whoever chains callbacks may hand over tensors that were not asked for.
void LlamaRouting::Impl::Computed(const ggml_tensor* tensor) {
  const int32_t layer = RouterLogitsLayer(tensor);
  const bool wanted = layer >= 0 || (voting && tensor->name == kOutputLogits);
  if (!decoding || !bound || !wanted || !failure.ok()) return;
  const auto start = std::chrono::steady_clock::now();
  Note(layer >= 0 ? RouteLayer(layer, tensor) : Vote(tensor));
  counters.layer_calls += layer >= 0;
  counters.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<std::span<const uint32_t>> LlamaRouting::Impl::RowsOf(size_t count, std::string_view where) const {
  if (count == last - first) return std::span<const uint32_t>();
  if (count == output_rows.size()) return std::span<const uint32_t>(output_rows);
  return Wrong(fmt::format("{}: {} rows, which are neither the micro-batch's {} nor its {} outputs", where, count,
                           last - first, output_rows.size()));
}

Status LlamaRouting::Impl::RouteLayer(int32_t layer, const ggml_tensor* logits) {
  if (layers_called == layers.size() || layers[layers_called] != layer) {
    return Wrong(fmt::format("layer {}: its router logits came out of turn", layer));
  }
  if (!positions_agree) return Wrong(fmt::format("layer {}: no positions were seen before it", layer));
  layers_called += 1;
  const std::string where = fmt::format("layer {}", layer);
  TensorFloats changed(logits);
  POINTSMAN_TRY(const auto rows, RowsOf(changed.rows(), where));
  if (changed.rows() == 0) return {};  // nobody reads an output of this micro-batch
  const ggml_tensor* input = ProductInput(logits);
  if (input == nullptr) return Wrong(where + ": its router logits are not a matrix product");
  TensorFloats hidden_states(input);
  if (!changed.readable() || !hidden_states.readable() || hidden_states.rows() != changed.rows()) {
    return Wrong(where + ": router input and logits are not fp32 rows of the same number");
  }
  std::vector<float> before;
  if (recorder) before.assign(changed.values().begin(), changed.values().end());
  POINTSMAN_CHECK_OK(router.Route(step, layer, hidden_states.values(), changed.values(), nullptr, rows));
  if (recorder) recorder(layer, hidden_states.values(), before, changed.values());
  changed.Store();
  return {};
}

Status LlamaRouting::Impl::Vote(const ggml_tensor* logits) {
  TensorFloats changed(logits);
  POINTSMAN_TRY(const auto rows, RowsOf(changed.rows(), "output"));
  if (changed.rows() == 0) return {};
  const ggml_tensor* input = ProductInput(logits);
  if (input == nullptr) return Wrong("output: its logits are not a matrix product");
  TensorFloats hidden_states(input);
  if (!changed.readable() || !hidden_states.readable()) return Wrong("output: hidden states or logits are not fp32");
  POINTSMAN_CHECK_OK(router.VoteOutput(step, rows, hidden_states.values(), changed.values()));
  changed.Store();
  return {};
}

}  // namespace pointsman
