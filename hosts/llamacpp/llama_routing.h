// Attaches memories to a llama.cpp context through its eval callback: no patch, no fork (docs/hosts.md).
//
//   auto routing = LlamaRouting::Create(model);               // refuses architectures that were not tested
//   llama_context_params params = llama_context_default_params();
//   routing.value()->Install(params);                         // before llama_init_from_model
//   llama_context* context = llama_init_from_model(model, params);
//   routing.value()->Bind(0, {.tables = tables});             // llama_seq_id 0
//   routing.value()->Decode(context, batch);                  // in place of llama_decode
//
// llama.cpp computes the graph up to each tensor `ffn_moe_logits-<layer>`, hands it to the callback and goes on with
// what the callback left there. The router's input is that node's second operand. Which rows the node has is read from
// the graph's own inputs (tokens, positions, output rows) and held against the batch: a difference is an error, and so
// is a MoE layer that was not computed.
//
// A sequence (llama_seq_id) has its own binding and gate. Its token ids are remembered whether it is bound or not, so
// it can be bound at any time. Going on at a lower position, after llama_memory_seq_rm, rewinds its gate.
//
// Threads: one LlamaRouting serves one context and is used by the thread that decodes, but for SetKillSwitch, which any
// thread may call. It must outlive the context.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llama.h"
#include "memory/result.h"
#include "router/router.h"

namespace pointsman {

struct LlamaCounters {
  uint64_t batches = 0;      // Decode calls that computed
  uint64_t layer_calls = 0;  // router logits seen, by MoE layer and micro-batch
  double seconds = 0;        // spent in routing them, of the caller's time
};

// What one MoE layer's router was given and gave in a micro-batch: hidden [n, H], logits before and after routing [n,
// E]. In shadow mode before and after are the same.
using RouterRecorder = std::function<void(int32_t layer, std::span<const float> hidden, std::span<const float> before,
                                          std::span<const float> after)>;

class LlamaRouting {
 public:
  // `model` must outlive the result. kUnsupported: the architecture is not in SupportedArchitectures(), or the model
  // has no experts.
  static Result<std::unique_ptr<LlamaRouting>> Create(const llama_model* model);
  // GGUF's names.
  static std::vector<std::string> SupportedArchitectures();
  ~LlamaRouting();
  LlamaRouting(const LlamaRouting&) = delete;
  LlamaRouting& operator=(const LlamaRouting&) = delete;

  // Sets cb_eval. kInvalidArgument if it is taken, or for several sequences without kv_unified: llama.cpp then orders
  // the rows of a batch anew, and no callback sees which sequence one belongs to.
  Status Install(llama_context_params& params);

  // From the next Decode on; replaces an earlier binding, and the gate reads the sequence's tokens again from its
  // start. kInvalidArgument: the tables or the session are of another shape than the model.
  Status Bind(llama_seq_id sequence, Binding binding);
  void Unbind(llama_seq_id sequence);
  // REQUIRES: the sequence is bound.
  void SetStrength(llama_seq_id sequence, float strength);
  void SetSession(llama_seq_id sequence, std::shared_ptr<const SessionVectors> session);
  // After llama_memory_seq_cp(.., from, to, ..): `to` has the tokens of `from`; its binding stays.
  void CopySequence(llama_seq_id from, llama_seq_id to);

  // llama_decode with the bindings in force; the value is llama_decode's (0: done, 1: no room, 2: aborted, < 0:
  // failed). Nothing was computed (kInvalidArgument): bound rows without token ids, in several sequences at once, or
  // not ascending; an earlier batch of bound sequences went past Decode. The batch was computed, but not as it should
  // be (kInternal): a MoE layer was not called, or rows are not the batch's; the sequences must be cleared.
  Result<int32_t> Decode(llama_context* context, llama_batch batch);

  // true: from now on no logits are changed, even in the middle of a batch; false: from the next micro-batch on.
  void SetKillSwitch(bool off);

  // For measuring: called within Decode at every MoE layer of a micro-batch with bound rows, with all rows that the
  // layer computes. Null: none.
  void SetRecorder(RouterRecorder recorder);

  // The MoE layers, ascending.
  const std::vector<int32_t>& layers() const;
  LlamaCounters counters() const;
  RouterCounters router_counters() const;
  // G after each position of a bound sequence.
  std::vector<float> GateHistory(llama_seq_id sequence) const;

 private:
  struct Impl;
  explicit LlamaRouting(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
