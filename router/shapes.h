// Do the tables, the session vectors and one call's arrays fit together? Constant time a call, before anything is read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/result.h"
#include "memory/routing_tables.h"
#include "router/router.h"

namespace pointsman {

// One Route call: [rows, hidden] and [rows, experts]. A VoteOutput call has tokens of the vocabulary in place of
// experts and kOutputLayer.
struct CallShape {
  int32_t layer = 0;
  size_t rows = 0;
  size_t hidden = 0;
  size_t experts = 0;
};

inline constexpr int32_t kOutputLayer = -1;

// kInvalidArgument when the lengths are no multiples of `rows`.
Result<CallShape> MakeCallShape(int32_t layer, size_t rows, size_t hidden_size, size_t logits_size);

// nullptr when the tables hold nothing for the layer.
const LayerView* FindLayer(const RoutingTables& tables, int32_t layer);

// The vector of one layer, or an empty span.
std::span<const float> SessionVector(const SessionVectors* session, int32_t layer);

// kInvalidArgument when the layer or the gate of the tables does not fit the call.
Status CheckTablesFit(const RoutingTables& tables, const CallShape& shape);
// The same for the output memory of the tables and a VoteOutput call.
Status CheckOutputFits(const OutputView& output, const CallShape& shape);
Status CheckSessionFits(const SessionVectors* session, const CallShape& shape);

}  // namespace pointsman
