// A llama_batch as rows of sequences. Pure: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "llama.h"
#include "memory/result.h"

namespace pointsman {

struct BatchRow {
  std::vector<llama_seq_id> sequences;  // at least one
  uint32_t position = 0;
  int32_t token = -1;  // -1: the batch has embeddings in place of tokens
};

// The rows in the batch's order, with what llama.cpp fills in where arrays are null: sequence 0, and positions that go
// on after `next_position(sequence)`. kInvalidArgument: no rows, a row without a sequence, a negative position.
Result<std::vector<BatchRow>> ReadBatch(const llama_batch& batch,
                                        const std::function<uint32_t(llama_seq_id)>& next_position);

// What routing asks of rows that belong to a bound sequence: token ids, one sequence a row, positions that ascend by 1.
Status CheckBoundRows(const std::vector<BatchRow>& rows, const std::function<bool(llama_seq_id)>& is_bound);

}  // namespace pointsman
