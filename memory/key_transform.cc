#include "memory/key_transform.h"

#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <faiss/VectorTransform.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <exception>

extern "C" {  // of OpenBLAS; its header clashes with FAISS's own declarations
void openblas_set_num_threads(int threads);
int openblas_get_num_threads();
}

namespace pointsman {
namespace {

constexpr float kSmallestEigenvalue = 1e-6f;  // relative to the largest

// One thread for OpenMP and BLAS while it lives: sums then have one order.
class OneThread {
 public:
  OneThread() : openmp_(omp_get_max_threads()), blas_(openblas_get_num_threads()) {
    omp_set_num_threads(1);
    openblas_set_num_threads(1);
  }
  ~OneThread() {
    omp_set_num_threads(openmp_);
    openblas_set_num_threads(blas_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int openmp_, blas_;
};

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

// mean and projection out of an unwhitened PCA trained on `count` rows; whitened here, so that the floor is relative.
// FAISS's eigenvalues are squared singular values: count times the variances.
Result<KeyTransform> Whiten(const faiss::PCAMatrix& pca, size_t count, uint32_t hidden, uint32_t dim) {
  const float largest = pca.eigenvalues.empty() ? 0.0f : pca.eigenvalues[0];
  if (!(largest > 0) || !std::isfinite(largest)) {
    return Invalid("key transform: all router inputs are equal; build from a larger or more varied corpus");
  }
  KeyTransform transform{pca.mean, std::vector<float>(size_t{dim} * hidden)};
  for (uint32_t d = 0; d < dim; ++d) {
    const float eigenvalue = std::max(pca.eigenvalues[d], largest * kSmallestEigenvalue);
    const float factor = std::sqrt(static_cast<float>(count) / eigenvalue);
    const float* direction = pca.PCAMat.data() + size_t{d} * hidden;
    std::transform(direction, direction + hidden, transform.projection.begin() + size_t{d} * hidden,
                   [&](float x) { return x * factor; });
  }
  if (!AllFinite(transform.projection) || !AllFinite(transform.mean)) {
    return Error{ErrorCode::kInternal, "key transform: the principal components are not finite; use a smaller --dim"};
  }
  return transform;
}

}  // namespace

Result<KeyTransform> FitWhitening(std::span<const float> rows, uint32_t hidden, uint32_t dim) {
  const size_t count = hidden == 0 ? 0 : rows.size() / hidden;
  if (dim == 0 || dim > hidden) {
    return Invalid(
        fmt::format("key transform: {} dimensions out of a hidden size of {}; use 1..{}", dim, hidden, hidden));
  }
  if (count < dim || count < 2) {
    return Invalid(
        fmt::format("key transform: {} router inputs for {} dimensions; build from a larger corpus", count, dim));
  }
  if (!AllFinite(rows)) {
    return Invalid("key transform: a router input is not finite; check the model's weights and dtype");
  }
  const bool constant = std::all_of(rows.begin() + hidden, rows.end(),
                                    [&, i = size_t{0}](float x) mutable { return x == rows[i++ % hidden]; });
  if (constant) return Invalid("key transform: all router inputs are equal; build from a more varied corpus");
  try {
    const OneThread one_thread;
    faiss::PCAMatrix pca(static_cast<int>(hidden), static_cast<int>(dim));
    pca.max_points_per_d = std::max<size_t>(pca.max_points_per_d, count / hidden + 1);  // never subsample
    pca.train(static_cast<faiss::Index::idx_t>(count), rows.data());
    return Whiten(pca, count, hidden, dim);
  } catch (const std::exception& error) {
    return Error{ErrorCode::kInternal, fmt::format("key transform: FAISS: {}", error.what())};
  }
}

Result<std::vector<float>> SphericalKMeans(std::span<const float> rows, uint32_t dim, uint32_t clusters, int iterations,
                                           uint64_t seed) {
  const size_t count = dim == 0 ? 0 : rows.size() / dim;
  if (clusters == 0 || count < clusters) {
    return Invalid(
        fmt::format("k-means: {} rows for {} clusters; use fewer prototypes or a larger corpus", count, clusters));
  }
  if (!AllFinite(rows)) return Invalid("k-means: a key is not finite; check the model's weights and dtype");
  try {
    const OneThread one_thread;
    faiss::ClusteringParameters parameters;
    parameters.niter = iterations;
    parameters.spherical = true;
    parameters.seed = static_cast<int>(seed % 2147483647);
    parameters.verbose = false;
    parameters.min_points_per_centroid = 1;
    parameters.max_points_per_centroid = static_cast<int>(count / clusters + 1);  // never subsample
    faiss::Clustering clustering(static_cast<int>(dim), static_cast<int>(clusters), parameters);
    faiss::IndexFlatIP index(dim);
    clustering.train(static_cast<faiss::Index::idx_t>(count), rows.data(), index);
    if (!AllFinite(clustering.centroids)) {
      return Error{ErrorCode::kInternal, "k-means: a centroid is not finite; use another --seed"};
    }
    return std::move(clustering.centroids);
  } catch (const std::exception& error) {
    return Error{ErrorCode::kInternal, fmt::format("k-means: FAISS: {}", error.what())};
  }
}

}  // namespace pointsman
