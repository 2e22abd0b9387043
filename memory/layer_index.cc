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

// Multiplications that are worth a thread: waking one takes up to 50 us, in which the scan of one query makes so many.
constexpr uint64_t kProductsPerThread = 1 << 20;

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

struct RowRange {
  uint64_t begin, end;
};

// Vector loads read whole 16-byte groups, past the end of a row. That is harmless but for the last rows of the array
// when rows are not whole groups: those are scanned from a padded copy.
uint64_t RowsInPlace(const KeyIndexView& view, uint32_t padded_dim) {
  const uint64_t overread = padded_dim - view.dim;
  return view.rows - (overread == 0 ? 0 : std::min<uint64_t>(view.rows, (overread + view.dim - 1) / view.dim));
}

// Keys past every query, block by block: they come from memory once for the whole batch.
void ScanRows(ScanBlockFunction scan, const KeyIndexView& view, RowRange rows, const QueryBatch& queries,
              std::span<TopK> best) {
  const uint64_t block_rows = std::max<uint64_t>(kBlockBytes / view.dim, 64);
  for (uint64_t row = rows.begin; row < rows.end; row += block_rows) {
    const KeyBlock block{view.codes.data() + row * view.dim, view.code_scales.data() + row,
                         static_cast<uint32_t>(std::min(block_rows, rows.end - row)), view.dim,
                         static_cast<uint32_t>(row)};
    ScanForAll(scan, block, queries, best);
  }
}

void ScanPaddedTail(ScanBlockFunction scan, const KeyIndexView& view, const QueryBatch& queries, std::span<TopK> best) {
  const uint64_t begin = RowsInPlace(view, queries.padded_dim), rows = view.rows - begin;
  if (rows == 0) return;
  std::vector<int8_t> padded(rows * view.dim + (queries.padded_dim - view.dim));
  std::memcpy(padded.data(), view.codes.data() + begin * view.dim, rows * view.dim);
  const KeyBlock tail{padded.data(), view.code_scales.data() + begin, static_cast<uint32_t>(rows), view.dim,
                      static_cast<uint32_t>(begin)};
  ScanForAll(scan, tail, queries, best);
}

std::vector<TopK> NewHeaps(std::span<Neighbour> slots, uint32_t k) {
  std::vector<TopK> heaps;
  heaps.reserve(slots.size() / k);
  for (size_t at = 0; at < slots.size(); at += k) heaps.emplace_back(slots.subspan(at, k));
  return heaps;
}

// The k best of what the parts found, [parts, queries, k]. IsBetter orders all keys, so which part a key was in cannot
// show.
void Merge(std::span<const Neighbour> parts, uint32_t k, std::span<Neighbour> out) {
  const size_t parts_read = parts.size() / out.size();
  std::vector<Neighbour> all(parts_read * k);
  for (size_t at = 0; at < out.size(); at += k) {
    for (size_t part = 0; part < parts_read; ++part) {
      std::ranges::copy(parts.subspan(part * out.size() + at, k), all.begin() + static_cast<ptrdiff_t>(part * k));
    }
    std::ranges::partial_sort_copy(all, out.subspan(at, k), IsBetter);
  }
}

size_t PartsOf(const KeyIndexView& view, uint32_t queries, const LentThreads& threads) {
  if (threads.count <= 1 || !threads.run) return 1;
  const uint64_t products = view.rows * view.dim * queries;
  return std::clamp<uint64_t>(products / kProductsPerThread, 1, threads.count);
}

void ScanAllKeys(ScanBlockFunction scan, const KeyIndexView& view, const QueryBatch& queries,
                 const LentThreads& threads, uint32_t k, std::span<Neighbour> out) {
  const uint64_t in_place = RowsInPlace(view, queries.padded_dim);
  const size_t parts = PartsOf(view, queries.count, threads);
  std::vector<Neighbour> of_parts(parts == 1 ? 0 : parts * out.size());
  const std::span<Neighbour> found = parts == 1 ? out : std::span(of_parts);
  const auto scan_part = [&](size_t part) {
    std::vector<TopK> best = NewHeaps(found.subspan(part * out.size(), out.size()), k);
    ScanRows(scan, view, {in_place * part / parts, in_place * (part + 1) / parts}, queries, best);
    if (part + 1 == parts) ScanPaddedTail(scan, view, queries, best);
    for (TopK& heap : best) heap.Finish();
  };
  if (parts == 1) return scan_part(0);
  threads.run(parts, scan_part);
  Merge(found, k, out);
}

void SearchBatch(ScanKernel kernel, const KeyIndexView& view, std::span<const float> queries, uint32_t k,
                 std::span<Neighbour> out, const LentThreads& threads) {
  const size_t count = queries.size() / view.hidden;
  const uint32_t padded_dim = (view.dim + kQueryAlign - 1) / kQueryAlign * kQueryAlign;
  std::vector<float> transformed(count * view.dim);
  TransformRows(view, queries, kernel != ScanKernel::kPortable, transformed);

  QueryCodes codes(count, padded_dim);
  std::vector<float> scales(count);
  for (size_t t = 0; t < count; ++t) {
    scales[t] =
        QuantizeQuery({transformed.data() + t * view.dim, view.dim}, {codes.data() + t * padded_dim, padded_dim});
  }
  const KernelFunctions functions = FunctionsOf(kernel);
  const auto queries_read = static_cast<uint32_t>(count);
  TurnedQueries turned;
  if (functions.turn != nullptr && count > 1) turned = functions.turn(codes.data(), queries_read, padded_dim);
  ScanAllKeys(functions.scan, view, {codes.data(), turned, scales.data(), queries_read, padded_dim}, threads, k, out);
}

}  // namespace

void SearchExact(const KeyIndexView& view, std::span<const float> queries, uint32_t k, std::span<Neighbour> out,
                 const LentThreads& threads) {
  SearchExactWith(ScanKernel::kAuto, view, queries, k, out, threads);
}

void SearchExactWith(ScanKernel kernel, const KeyIndexView& view, std::span<const float> queries, uint32_t k,
                     std::span<Neighbour> out, const LentThreads& threads) {
  if (view.hidden == 0 || view.dim == 0 || view.rows == 0 || k == 0) {
    std::fill(out.begin(), out.end(), Neighbour{});
    return;
  }
  kernel = Resolve(kernel);
  const size_t count = queries.size() / view.hidden;
  for (size_t first = 0; first < count; first += kQueryRowsAtOnce) {
    const size_t size = std::min(kQueryRowsAtOnce, count - first);
    SearchBatch(kernel, view, queries.subspan(first * view.hidden, size * view.hidden), k,
                out.subspan(first * k, size * k), threads);
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
