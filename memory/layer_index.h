// Exact search over one layer's int8 keys: the true top-k of the stored keys, the same for every thread count, batch
// composition and kernel (integer dot products int16 x int8, fixed order; ties broken by the lower row).
//
// Queries are router inputs h [H]; they are centered, projected, normalised and quantised to int16 here, row by row in
// a fixed order of operations, so that one query's result never depends on its neighbours in the batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "memory/routing_tables.h"

namespace pointsman {

struct Neighbour {
  float similarity = -2.0f;  // cosine of the query to the stored (quantised) key
  uint32_t row = 0;
};

// Threads that a caller lends to a search: run(parts, work) calls work(0) .. work(parts - 1), each once, in any order,
// on any threads, and returns when all have. This library starts none of its own.
struct LentThreads {
  size_t count = 1;
  std::function<void(size_t parts, const std::function<void(size_t)>& work)> run;
};

// Exact top-k, best first, for T queries. queries [T, H]; out [T, k] (slots beyond the number of rows keep
// similarity -2). A query that is not finite finds nothing: all its slots keep -2. A query that equals the mean has
// similarity 0 to every key. REQUIRES: queries.size() == T * view.hidden, out.size() == T * k.
// Scratch memory is bounded, whatever T. Runs on the calling thread, or on the lent ones where there are enough keys to
// be worth waking them: each takes a part of the keys, and what they find is the same to the last bit.
void SearchExact(const KeyIndexView& view, std::span<const float> queries, uint32_t k, std::span<Neighbour> out,
                 const LentThreads& threads = {});

// The query side alone: normalise(projection (h - mean)) as fp32 [T, D] (training, tests, capture).
void TransformQueries(const KeyIndexView& view, std::span<const float> queries, std::span<float> out);

// Keys already transformed and normalised [R, D] -> codes [R, D] and scales [R] (symmetric, max |x| / 127). A row that
// is not finite gets a NaN scale, which CheckTables refuses. REQUIRES: codes and rows [R, D], scales [R].
void QuantizeRows(std::span<const float> rows, uint32_t dim, std::span<int8_t> codes, std::span<float> scales);

// Which kernel SearchExact runs on this machine: "avx512", "avx2" or "portable"; all give the same bits. Tests and
// `bench scan` may force one (one that is not available falls back to portable).
enum class ScanKernel { kAuto, kPortable, kAvx2, kAvx512 };
const char* ScanKernelName(ScanKernel kernel);
bool ScanKernelAvailable(ScanKernel kernel);
void SearchExactWith(ScanKernel kernel, const KeyIndexView& view, std::span<const float> queries, uint32_t k,
                     std::span<Neighbour> out, const LentThreads& threads = {});

}  // namespace pointsman
