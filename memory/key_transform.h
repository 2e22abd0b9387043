// Fitting what turns router inputs into search keys: a whitening projection (faiss::PCAMatrix) and, for prototypes and
// the gate, spherical k-means (faiss::Clustering). Offline only; routing applies the result (layer_index.h).
//
// Deterministic: FAISS, OpenMP and BLAS run on one thread inside, whatever the process uses, so the same rows give the
// same bits on the same machine. Exceptions of FAISS end here. Not to be called from two threads at once: the number of
// BLAS threads belongs to the process.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/result.h"

namespace pointsman {

struct KeyTransform {
  std::vector<float> mean;        // [H]
  std::vector<float> projection;  // [D, H]
};

// Whitened PCA of rows [R, H]: projection (h - mean) has uncorrelated components of variance 1, strongest first.
// Eigenvalues below 1e-6 of the largest are raised to that, so that a direction without variance cannot blow up noise.
// Errors (kInvalidArgument): no rows, fewer than D rows, D > H, a value that is not finite, rows that are all equal.
Result<KeyTransform> FitWhitening(std::span<const float> rows, uint32_t hidden, uint32_t dim);

// Centroids [clusters, D], each of length 1, of normalised rows [R, D].
// Errors (kInvalidArgument): fewer rows than clusters, no clusters, a value that is not finite.
Result<std::vector<float>> SphericalKMeans(std::span<const float> rows, uint32_t dim, uint32_t clusters, int iterations,
                                           uint64_t seed);

}  // namespace pointsman
