#include "hosts/llamacpp/batch_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace pointsman {
namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Result<std::vector<BatchRow>> ReadBatch(const llama_batch& batch,
                                        const std::function<uint32_t(llama_seq_id)>& next_position) {
  if (batch.n_tokens <= 0) return Invalid("batch: it has no rows; give at least one token");
  std::vector<BatchRow> rows(static_cast<size_t>(batch.n_tokens));
  std::map<llama_seq_id, uint32_t> next;
  for (int32_t i = 0; i < batch.n_tokens; ++i) {
    BatchRow& row = rows[static_cast<size_t>(i)];
    if (batch.seq_id == nullptr) {
      row.sequences = {0};
    } else {
      const int32_t count = batch.n_seq_id == nullptr ? 1 : batch.n_seq_id[i];
      if (count < 1) return Invalid(fmt::format("batch: row {} belongs to no sequence; set n_seq_id and seq_id", i));
      row.sequences.assign(batch.seq_id[i], batch.seq_id[i] + count);
    }
    if (batch.token != nullptr) row.token = batch.token[i];
    if (batch.pos == nullptr) {
      auto [found, first] = next.try_emplace(row.sequences.front(), 0);
      if (first) found->second = next_position(row.sequences.front());
      row.position = found->second++;
    } else if (batch.pos[i] < 0) {
      return Invalid(fmt::format("batch: row {} has the position {}; positions start at 0", i, batch.pos[i]));
    } else {
      row.position = static_cast<uint32_t>(batch.pos[i]);
    }
  }
  return rows;
}

Status CheckBoundRows(const std::vector<BatchRow>& rows, const std::function<bool(llama_seq_id)>& is_bound) {
  std::map<llama_seq_id, uint32_t> next;
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchRow& row = rows[i];
    if (std::ranges::none_of(row.sequences, is_bound)) continue;
    const llama_seq_id sequence = row.sequences.front();
    if (row.sequences.size() > 1) {
      return Invalid(
          fmt::format("batch: row {} belongs to {} sequences, one of them with a memory; decode it for one, then "
                      "llama_memory_seq_cp and CopySequence",
                      i, row.sequences.size()));
    }
    if (row.token < 0) {
      return Invalid(
          fmt::format("batch: row {} of sequence {} has an embedding and no token id, which the context "
                      "gate reads; unbind the sequence",
                      i, sequence));
    }
    const auto [found, first] = next.try_emplace(sequence, row.position);
    if (row.position != found->second) {
      return Invalid(
          fmt::format("batch: row {} of sequence {} has the position {}, not {}; pass a bound sequence's "
                      "rows in ascending order",
                      i, sequence, row.position, found->second));
    }
    found->second = row.position + 1;
  }
  return {};
}

}  // namespace pointsman
