#include "models/weight_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace pointsman {
namespace {

constexpr size_t kHugePage = 2 << 20;  // x86-64, and arm64 with 4 KB pages

}  // namespace

at::Tensor NewWeights(at::IntArrayRef shape) {
  const size_t bytes = c10::multiply_integers(shape) * sizeof(float);
  if (bytes < kHugePage) return at::empty(shape, at::kFloat);
  void* memory = std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage);
  if (memory == nullptr) throw std::bad_alloc();
  // Whole pages only: the rest of the last one would be memory for nothing. A system that refuses gives small ones.
  static_cast<void>(madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE));
  return at::from_blob(
      memory, shape, [](void* owned) { std::free(owned); }, at::kFloat);
}

}  // namespace pointsman
