#include "memory/kernels/scan.h"

namespace pointsman {

void ScanBlockPortable(const KeyBlock& keys, const QueryTile& queries, TopK* best) {
  for (uint32_t row = 0; row < keys.rows; ++row) ScanOneRow(keys, row, queries, best);
}

}  // namespace pointsman
