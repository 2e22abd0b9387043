// Routing tables copied from their views (a mapped generation, say) into vectors, whole or without some rows. The way
// back is MakeTables.
#pragma once

#include <cstdint>
#include <span>

#include "memory/routing_tables.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {

OwnedTables CopyTables(const RoutingTables& tables);
OwnedGate CopyGate(const GateView& gate);

// With the rows that `rows` names alone, in that order; an absent array stays absent.
OwnedLayer CopyRows(const LayerView& layer, std::span<const uint64_t> rows);
OwnedOutput CopyRows(const OutputView& output, std::span<const uint64_t> rows);

}  // namespace pointsman
