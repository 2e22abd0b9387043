// The running k best neighbours of one query: a binary heap whose root is the worst one kept.
//
// Rows must be pushed in ascending order: then a later row of equal similarity never displaces an earlier one, and a
// strict comparison with threshold() is all that a scan does per key. NaN never compares greater, so it is never kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "memory/layer_index.h"

namespace pointsman {

// Best first: by similarity, ties by the lower row.
inline bool IsBetter(const Neighbour& a, const Neighbour& b) {
  return a.similarity > b.similarity || (a.similarity == b.similarity && a.row < b.row);
}

class TopK {
 public:
  // Uses the caller's slots as the heap. REQUIRES: at least one slot.
  explicit TopK(std::span<Neighbour> slots) : slots_(slots) {
    std::fill(slots_.begin(), slots_.end(), Neighbour{Neighbour{}.similarity, kEmptyRow});
    threshold_ = Neighbour{}.similarity;
  }

  float threshold() const { return threshold_; }

  // REQUIRES: similarity > threshold().
  void Push(float similarity, uint32_t row) {
    size_t hole = 0;
    const Neighbour added{similarity, row};
    for (;;) {  // sift the hole at the root down to where `added` belongs
      size_t child = 2 * hole + 1;
      if (child >= slots_.size()) break;
      if (child + 1 < slots_.size() && IsBetter(slots_[child], slots_[child + 1])) ++child;
      if (!IsBetter(added, slots_[child])) break;
      slots_[hole] = slots_[child];
      hole = child;
    }
    slots_[hole] = added;
    threshold_ = slots_[0].similarity;
  }

  // Sorts the slots, best first; empty ones become Neighbour{}. The heap is used up.
  void Finish() {
    std::sort(slots_.begin(), slots_.end(), IsBetter);
    for (size_t i = slots_.size(); i > 0 && slots_[i - 1].row == kEmptyRow; --i) slots_[i - 1] = Neighbour{};
  }

 private:
  static constexpr uint32_t kEmptyRow = 0xffffffffu;  // rows are below 2^32 - 1 (CheckTables)

  std::span<Neighbour> slots_;
  float threshold_;
};

}  // namespace pointsman
