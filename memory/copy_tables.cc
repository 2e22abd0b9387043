#include "memory/copy_tables.h"

#include <vector>

#include "memory/table_fields.h"

namespace pointsman {
namespace {

struct Copied {
  template <typename T>
  std::vector<T> Whole(std::span<const T> values) const {
    return {values.begin(), values.end()};
  }
  template <typename T>
  std::vector<T> Rows(std::span<const T> values, uint64_t) const {
    return Whole(values);
  }
};

struct CopiedRows : Copied {
  explicit CopiedRows(std::span<const uint64_t> r) : rows(r) {}
  std::span<const uint64_t> rows;

  // Of [R, columns].
  template <typename T>
  std::vector<T> Rows(std::span<const T> values, uint64_t columns) const {
    std::vector<T> kept;
    if (values.empty()) return kept;
    kept.reserve(rows.size() * columns);
    for (const uint64_t row : rows) {
      const auto begin = values.begin() + static_cast<ptrdiff_t>(row * columns);
      kept.insert(kept.end(), begin, begin + static_cast<ptrdiff_t>(columns));
    }
    return kept;
  }
};

}  // namespace

OwnedTables CopyTables(const RoutingTables& tables) {
  OwnedTables owned;
  SetCommonFields(tables, owned);
  owned.gate = CopyGate(tables.gate);
  for (const LayerView& layer : tables.layers) owned.layers.push_back(LayerOf<OwnedLayer>(layer, Copied()));
  owned.output = OutputOf<OwnedOutput>(tables.output, Copied());
  return owned;
}

OwnedGate CopyGate(const GateView& gate) { return GateOf<OwnedGate>(gate, Copied()); }

OwnedLayer CopyRows(const LayerView& layer, std::span<const uint64_t> rows) {
  return LayerOf<OwnedLayer>(layer, CopiedRows(rows));
}

OwnedOutput CopyRows(const OutputView& output, std::span<const uint64_t> rows) {
  return OutputOf<OwnedOutput>(output, CopiedRows(rows));
}

}  // namespace pointsman
