// The door of routing: one contract for every engine (design.md 2).
//
//   Router router;
//   uint32_t slot = router.AddSlot({.tables = memory, .strength = 1.0f});
//   Step step = router.BeginStep(slots, positions, tokens);   // once per forward pass; the gates are known then
//   router.Route(step, layer, hidden, logits);                // at each MoE layer; logits change in place
//   router.VoteOutput(step, {}, last_hidden, output_logits);  // after the last layer: the output memory, if any
//
// T rows of a step belong to the sequences named by slots[T]; slot 0 is the frozen router and is never written. Rows of
// one sequence ascend by position; a position at or below one already seen rewinds the sequence's gate to it.
// A row whose weight is 0 and that has no session vector is not written: its logits keep their bits.
// Route()'s result for a row depends on that row and its slot's earlier rows only: not on the batch, not on threads.
//
// A row with a non-finite hidden state, logit or result is left as it was and counted.
// Layers for which a row's slot has neither memory nor session vector are no-ops: not counted, not traced.
//
// Threads: all calls on one Router are serialised by the caller, but for SetKillSwitch, which any thread may call.
// Different Routers are independent. Route runs on the calling thread, its searches also on threads that LendThreads
// gave.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/layer_index.h"
#include "memory/result.h"
#include "memory/routing_tables.h"

namespace pointsman {

// One additive vector per layer (online rerouting). vectors[layer] is [E] or empty.
struct SessionVectors {
  std::vector<std::vector<float>> by_layer;
};

struct Binding {
  std::shared_ptr<const RoutingTables> tables;    // null: no memory
  std::shared_ptr<const SessionVectors> session;  // null: no session
  float strength = 1.0f;                          // 0..1 (cut off there), scales the memory's change, not the session's
  bool shadow = false;                            // compute and count everything, write nothing
};

// What happened to one row at one layer, for `--explain` and metrics.
struct RowTrace {
  uint32_t row = 0;  // of the step
  int32_t layer = 0;
  float gate = 0;        // G
  float confidence = 0;  // g
  bool written = false;
  std::vector<Neighbour> neighbours;  // best first
  std::vector<float> logits_before;   // [E]
  std::vector<float> logits_after;    // [E]; in shadow mode what would have been written
};

// Totals since construction; shadow rows count as touched but not as written.
struct RouterCounters {
  uint64_t rows = 0;        // (row, layer) pairs seen on bound slots
  uint64_t touched = 0;     // the memory's weight was above 0
  uint64_t written = 0;     // by memory, session or both
  uint64_t gate_shut = 0;   // G == 0 at a layer with memory
  uint64_t voted = 0;       // rows of output logits written by an output memory
  uint64_t non_finite = 0;  // left as they were for an infinity or NaN
};

// State of one forward pass. Valid until the next BeginStep of the same Router.
struct Step {
  std::vector<uint32_t> slots;      // [T]
  std::vector<uint32_t> positions;  // [T]
  std::vector<int32_t> tokens;      // [T], or empty: token tables are off and tokens count as unknown text
  // [T] G of each row, from the tokens so far; 1 for memories without a gate, 0 for rows without memory. A caller that
  // knows better, or has no tokens, may set it (0..1) before the first Route.
  std::vector<float> gate;
  uint64_t id = 0;
};

class Router {
 public:
  Router();
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  // For the searches of Route and VoteOutput from now on (none at first). What they find does not depend on it.
  void LendThreads(LentThreads threads);

  // A new sequence; ids start at 1 and released ids are reused.
  uint32_t AddSlot(Binding binding);
  void ReleaseSlot(uint32_t slot);
  // REQUIRES: slot is live.
  void SetStrength(uint32_t slot, float strength);
  // Replaces the session vectors (null: none) from the next step on; the gate's state stays. REQUIRES: slot is live.
  void SetSession(uint32_t slot, std::shared_ptr<const SessionVectors> session);

  bool IsLive(uint32_t slot) const;
  uint32_t SlotLength(uint32_t slot) const;  // positions it has seen; 0 if it is not live

  // tokens is [T] or empty; a negative one is unknown. Nothing changes on error.
  // Errors (kInvalidArgument): lengths differ, an unknown slot, positions of one sequence not ascending one by one,
  // a position that skips over unseen ones.
  Result<Step> BeginStep(std::span<const uint32_t> slots, std::span<const uint32_t> positions,
                         std::span<const int32_t> tokens);

  // hidden [T, H], logits [T, E]. `trace`, if given, receives one RowTrace per row that has memory or session here, in
  // row order. `rows` [n], ascending, for engines that compute only some rows of the step at a layer (llama.cpp: at the
  // last one, those whose output is read): hidden is [n, H] and logits [n, E] then; empty: all rows.
  // Errors (kInvalidArgument; no logits were changed): shapes do not fit the tables; a stale step; a slot released
  // during the step; a gate outside 0..1; rows that do not ascend.
  Status Route(Step& step, int32_t layer, std::span<const float> hidden, std::span<float> logits,
               std::vector<RowTrace>* trace = nullptr, std::span<const uint32_t> rows = {});

  // The output memory's step, after the last MoE layer (router/output_vote.h). hidden [n, H] is what the model's output
  // layer reads and logits [n, V] what it gave, for the step's rows `rows` [n], ascending (empty: all, in order). A row
  // whose weight lambda * strength * G is 0, or that is not finite, keeps its bits. Errors (kInvalidArgument; no logits
  // were changed): as Route's; the vocabulary is not the memory's.
  Status VoteOutput(const Step& step, std::span<const uint32_t> rows, std::span<const float> hidden,
                    std::span<float> logits);

  // Off switch: true makes every Route and VoteOutput a no-op (rows keep their bits) at once; false takes effect with
  // the next BeginStep. The gate goes on reading in between.
  void SetKillSwitch(bool off);
  RouterCounters counters() const;

  // Gate value after each position of a slot so far (G per position), for reports.
  std::vector<float> GateHistory(uint32_t slot) const;
  // What a slot's gate depends on: its tokens so far, kNoToken where they are unknown (without memory or gate: all).
  std::vector<int32_t> SlotTokens(uint32_t slot) const;
  // Puts a slot after `tokens`, whatever it had seen: the same bits as if they had been in steps. A step that has begun
  // goes on with the gates that it has. REQUIRES: slot is live.
  void RestoreSlot(uint32_t slot, std::span<const int32_t> tokens);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pointsman
