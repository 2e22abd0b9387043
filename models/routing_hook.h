// The one place where routing can be changed: the model calls BeginStep once per forward pass and Route at every MoE
// layer with the router's input and its logits, before softmax and top-k.
//
// Rows are the tokens of a pass, one sequence's after another's, each sequence's in ascending position. A hook may be
// differentiable (adapt/) or run the C++ router on raw data (RouterHook in models/router_hook.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct StepInfo {
  std::vector<uint32_t> slots = {};      // [rows]: sequence each row belongs to (Router slots; 0 = frozen)
  std::vector<uint32_t> positions = {};  // [rows]
  std::vector<int32_t> tokens = {};      // [rows]
  // Ascending: the rows whose output is asked for where not all are (Output), the last of each sequence.
  std::vector<uint32_t> output_rows = {};
  // The number that a memory knows each MoE layer by (LossModel::LayerNumber); empty: its index.
  std::vector<int> layer_numbers = {};
};

// The number of a MoE layer by StepInfo::layer_numbers, for hooks that keep those of their step.
inline int NumberOfLayer(const std::vector<int>& layer_numbers, int layer) {
  return layer_numbers.empty() ? layer : layer_numbers[layer];
}

// A pass of B sequences of T tokens, ids [B, T] int64 after `past` positions. slots [B]; empty = all 0.
StepInfo DescribeStep(const at::Tensor& ids, const std::vector<uint32_t>& slots, int64_t past);

class RoutingHook {
 public:
  virtual ~RoutingHook() = default;
  virtual void BeginStep(const StepInfo& step) = 0;
  // hidden [rows, H], logits [rows, E], both fp32 and contiguous. Returns the logits to use: `logits` itself
  // (possibly changed in place, if no gradient is recorded) or a new tensor of the same shape.
  virtual at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) = 0;
  // The model's last step. hidden [n, H] is what the output layer reads (after the final norm), logits [n, V] what it
  // gave, for all rows of the step or for its `output_rows` only. Returns the logits to use, as Route does. A hook that
  // wraps another passes this on.
  virtual at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) {
    static_cast<void>(hidden);
    return logits;
  }
  // The first error of BeginStep or Route; callers of Forward ask after each pass.
  virtual Status status() const { return {}; }
};

}  // namespace pointsman
