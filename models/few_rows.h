// Products of a few rows with a weight matrix as the files store it, y = W x: what decoding is made of.
//
// W is read once, in order, whatever the number of rows, so that a step of eight sequences costs little more than a
// step of one. A row's result does not depend on the other rows or on threads, to the last bit: every product is summed
// in the same order. (On another instruction set it is another order.)
//
// LibTorch's own products copy W into a layout of their own first, which for few rows is most of the work. Measured on
// an AMD EPYC, one thread, W [192, 192] in the third-level cache, microseconds (MKL, this): 1 row 20, 6; 2 rows 23, 7;
// 8 rows 25, 14; 16 rows 31, 23; 32 rows 42, 39; W [2048, 2048] from memory: 1 row 1000, 840; 8 rows 2100, 1650.
#pragma once

#include <cstdint>
#include <span>

namespace pointsman {

inline constexpr int64_t kFewRows = 16;  // from 32 on LibTorch's products are as fast

// Multiplications of one thread that are worth waking a second for, which takes 50 us where it sleeps (on machines that
// others share it does, and so it does in a server whose threads are more than the cores).
inline constexpr int64_t kProductsPerThread = 1 << 20;

// y[r] [out] = W [out, in] x[r] [in], for each r. Uses LibTorch's pool where W is large; inside one of its parallel
// regions, and for small W, runs on the calling thread. REQUIRES: as many x as y; no y overlaps an x.
void MultiplyFewRows(std::span<const float* const> x, const float* w, int64_t in, int64_t out,
                     std::span<float* const> y);

// y [width] = sum over i of weights[i] * rows[i], rows [weights.size(), width] dense, in ascending order.
void WeightedSum(std::span<const float> weights, const float* rows, int64_t width, float* y);

// softmax(scale * scores), in place. at::softmax wakes LibTorch's threads for any two rows.
void Softmax(std::span<float> scores, float scale);

}  // namespace pointsman
