// The query side of a search: center, project, normalise, quantise. One query's result never depends on its neighbours
// in the batch, on the instruction set or on threads: every dot product is summed in the same order,
//   lane[j] = sum of the elements i with i % 16 == j, ascending;  then lane[j] += lane[j + 8], + 4, + 2, + 1
// with a rounding after every product and every sum (built with -ffp-contract=off).
#pragma once

#include <cstdint>
#include <span>

#include "memory/routing_tables.h"

namespace pointsman {

// normalise(projection (h - mean)): rows [T, H] -> out [T, D]. A row of length 0 stays 0; a row with a NaN or an
// infinity (or one that overflows) becomes NaN throughout.
void TransformRows(const KeyIndexView& view, std::span<const float> rows, bool use_simd, std::span<float> out);

// Symmetric int16: code = round(x / scale), scale = max |x| / 32767. codes has room for the padded row; the rest is
// zeroed. Returns the scale, NaN for a row that is not finite (codes 0): such a query finds nothing.
float QuantizeQuery(std::span<const float> row, std::span<int16_t> codes);

}  // namespace pointsman
