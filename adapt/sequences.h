// Token sequences as the model reads them, and their batches. A sequence is one window of one document: at most the
// model's context long, scored from its first token on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace pointsman {

struct Sequence {
  std::vector<int32_t> inputs;   // [n]
  std::vector<int32_t> targets;  // [n]: targets[t] is the token that follows inputs[t]
  std::vector<uint8_t> mask;     // [n]: 1 where the target counts
  uint32_t document = 0;         // the caller's index
  uint32_t group = 0;            // near-duplicate cluster: leave-one-out leaves the whole group out
  uint32_t position = 0;         // of inputs[0] in the document's entries
  uint64_t first_row = 0;        // row of inputs[0] among all rows of a reference set (see NumberRows)
};

// Numbers the tokens of all sequences in order; returns how many there are.
uint64_t NumberRows(std::span<Sequence> sequences);
uint64_t CountTargets(std::span<const Sequence> sequences);

// B sequences padded on the right to the longest, T tokens. Padding has token 0, weight 0 and row 0.
struct Batch {
  at::Tensor ids;      // [B, T] int64
  at::Tensor targets;  // [B, T] int64
  at::Tensor weights;  // [B, T] fp32: 1 where the target counts, else 0
  at::Tensor rows;     // [B * T] int64: reference rows
  std::vector<uint32_t> members;
  uint64_t draw = 0;  // seeds what a module draws at random in training
};

Batch MakeBatch(std::span<const Sequence> sequences, std::span<const uint32_t> members);

// Groups all sequences into batches of `size`, like lengths together (padding is work thrown away), in a random order
// that depends on the seed alone.
std::vector<std::vector<uint32_t>> PlanBatches(std::span<const Sequence> sequences, uint32_t size, uint64_t seed);

}  // namespace pointsman
