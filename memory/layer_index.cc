#include "memory/layer_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "memory/kernels/project.h"
#include "memory/kernels/scan.h"

namespace pointsman {
namespace {

constexpr size_t kBlockBytes = 128 << 10;  // of keys: half of a small L2, so that a whole batch reads them from there
constexpr size_t kQueryRowsAtOnce = 256;   // bounds the scratch memory of a long prefill

// int16 [rows, padded_dim] on a vector boundary.
class QueryCodes {
 public:
  QueryCodes(size_t rows, size_t padded_dim)
      : codes_(static_cast<int16_t*>(::operator new(std::max<size_t>(rows* padded_dim, 1) * 2, kAlign))) {}
  int16_t* data() { return codes_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(int16_t* codes) const { ::operator delete(codes, kAlign); }
  };
  std::unique_ptr<int16_t, Free> codes_;
};

ScanKernel Resolve(ScanKernel kernel) {
  if (kernel != ScanKernel::kAuto) return ScanKernelAvailable(kernel) ? kernel : ScanKernel::kPortable;
  for (ScanKernel candidate : {ScanKernel::kAvx512, ScanKernel::kAvx2}) {
    if (ScanKernelAvailable(candidate)) return candidate;
  }
  return ScanKernel::kPortable;
}

struct KernelFunctions {
  ScanBlockFunction scan;
  TurnQueriesFunction turn = nullptr;  // null: it turns none
};

KernelFunctions FunctionsOf(ScanKernel kernel) {
#if defined(__x86_64__)
  if (kernel == ScanKernel::kAvx512) return {ScanBlockAvx512, TurnQueriesAvx512};
  if (kernel == ScanKernel::kAvx2) return {ScanBlockAvx2, TurnQueriesAvx2};
#endif
  return {ScanBlockPortable};
}

struct QueryBatch {
  const int16_t* codes;
  const TurnedQueries& turned;  // of several queries
  const float* scales;
  uint32_t count;
  uint32_t padded_dim;
};

void ScanForAll(ScanBlockFunction scan, const KeyBlock& keys, const QueryBatch& queries, std::span<TopK> best) {
  const TurnedQueries& turned = queries.turned;
  for (uint32_t q = 0; q < queries.count; q += kQueryTile) {
    const QueryTile tile{.codes = queries.codes + size_t{q} * queries.padded_dim,
                         .words = turned.words.data() + q * (turned.words.size() / queries.count),
                         .offsets = turned.offsets.empty() ? nullptr : turned.offsets.data() + q,
                         .reach = turned.reach.empty() ? nullptr : turned.reach.data() + q,
                         .scales = queries.scales + q,
                         .count = std::min(kQueryTile, queries.count - q),
                         .padded_dim = queries.padded_dim};
    scan(keys, tile, best.data() + q);
  }
}

// Every key past every query, block by block: keys come from memory once for the whole batch.
void ScanAllKeys(ScanBlockFunction scan, const KeyIndexView& view, const QueryBatch& queries, std::span<TopK> best) {
  // Vector loads read whole 16-byte groups, past the end of a row. That is harmless but for the last rows of the array
  // when rows are not whole groups: those are scanned from a padded copy.
  const size_t overread = queries.padded_dim - view.dim;
  const uint64_t copied = overread == 0 ? 0 : std::min<uint64_t>(view.rows, (overread + view.dim - 1) / view.dim);
  const uint64_t in_place = view.rows - copied;
  const uint64_t block_rows = std::max<uint64_t>(kBlockBytes / view.dim, 64);
  for (uint64_t row = 0; row < in_place; row += block_rows) {
    const KeyBlock block{view.codes.data() + row * view.dim, view.code_scales.data() + row,
                         static_cast<uint32_t>(std::min(block_rows, in_place - row)), view.dim,
                         static_cast<uint32_t>(row)};
    ScanForAll(scan, block, queries, best);
  }
  if (copied == 0) return;
  std::vector<int8_t> padded(copied * view.dim + overread);
  std::memcpy(padded.data(), view.codes.data() + in_place * view.dim, copied * view.dim);
  const KeyBlock tail{padded.data(), view.code_scales.data() + in_place, static_cast<uint32_t>(copied), view.dim,
                      static_cast<uint32_t>(in_place)};
  ScanForAll(scan, tail, queries, best);
}

void SearchBatch(ScanKernel kernel, const KeyIndexView& view, std::span<const float> queries, uint32_t k,
                 std::span<Neighbour> out) {
  const size_t count = queries.size() / view.hidden;
  const uint32_t padded_dim = (view.dim + kQueryAlign - 1) / kQueryAlign * kQueryAlign;
  std::vector<float> transformed(count * view.dim);
  TransformRows(view, queries, kernel != ScanKernel::kPortable, transformed);

  QueryCodes codes(count, padded_dim);
  std::vector<float> scales(count);
  std::vector<TopK> best;
  best.reserve(count);
  for (size_t t = 0; t < count; ++t) {
    scales[t] =
        QuantizeQuery({transformed.data() + t * view.dim, view.dim}, {codes.data() + t * padded_dim, padded_dim});
    best.emplace_back(out.subspan(t * k, k));
  }
  const KernelFunctions functions = FunctionsOf(kernel);
  const auto queries_read = static_cast<uint32_t>(count);
  TurnedQueries turned;
  if (functions.turn != nullptr && count > 1) turned = functions.turn(codes.data(), queries_read, padded_dim);
  ScanAllKeys(functions.scan, view, {codes.data(), turned, scales.data(), queries_read, padded_dim}, best);
  for (TopK& heap : best) heap.Finish();
}

}  // namespace

void SearchExact(const KeyIndexView& view, std::span<const float> queries, uint32_t k, std::span<Neighbour> out) {
  SearchExactWith(ScanKernel::kAuto, view, queries, k, out);
}

void SearchExactWith(ScanKernel kernel, const KeyIndexView& view, std::span<const float> queries, uint32_t k,
                     std::span<Neighbour> out) {
  if (view.hidden == 0 || view.dim == 0 || view.rows == 0 || k == 0) {
    std::fill(out.begin(), out.end(), Neighbour{});
    return;
  }
  kernel = Resolve(kernel);
  const size_t count = queries.size() / view.hidden;
  for (size_t first = 0; first < count; first += kQueryRowsAtOnce) {
    const size_t size = std::min(kQueryRowsAtOnce, count - first);
    SearchBatch(kernel, view, queries.subspan(first * view.hidden, size * view.hidden), k,
                out.subspan(first * k, size * k));
  }
}

void TransformQueries(const KeyIndexView& view, std::span<const float> queries, std::span<float> out) {
  TransformRows(view, queries, ScanKernelAvailable(ScanKernel::kAvx2), out);
}

void QuantizeRows(std::span<const float> rows, uint32_t dim, std::span<int8_t> codes, std::span<float> scales) {
  for (size_t r = 0; r < scales.size(); ++r) {
    const std::span<const float> row = rows.subspan(r * dim, dim);
    const std::span<int8_t> code = codes.subspan(r * dim, dim);
    float largest = 0;
    bool finite = true;
    for (float x : row) {
      finite = finite && std::isfinite(x);
      largest = std::max(largest, std::fabs(x));
    }
    scales[r] = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 0; i < dim; ++i) {
      const float steps = finite && scales[r] > 0 ? std::nearbyint(row[i] / scales[r]) : 0.0f;
      code[i] = static_cast<int8_t>(std::clamp(steps, -127.0f, 127.0f));
    }
  }
}

const char* ScanKernelName(ScanKernel kernel) {
  switch (Resolve(kernel)) {
    case ScanKernel::kAvx512:
      return "avx512";
    case ScanKernel::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

bool ScanKernelAvailable(ScanKernel kernel) {
#if defined(__x86_64__)
  if (kernel == ScanKernel::kAvx2) return __builtin_cpu_supports("avx2");
  if (kernel == ScanKernel::kAvx512) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni");
  }
#endif
  return kernel == ScanKernel::kAuto || kernel == ScanKernel::kPortable;
}

}  // namespace pointsman
