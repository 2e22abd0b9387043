#include "adapt/sequences.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace pointsman {
namespace {

// std::shuffle's algorithm is the library's choice; this one is ours, so that a seed means the same everywhere.
template <typename T>
void Shuffle(std::vector<T>& items, std::mt19937_64& random) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random() % i]);
}

}  // namespace

uint64_t NumberRows(std::span<Sequence> sequences) {
  uint64_t row = 0;
  for (Sequence& sequence : sequences) {
    sequence.first_row = row;
    row += sequence.inputs.size();
  }
  return row;
}

uint64_t CountTargets(std::span<const Sequence> sequences) {
  uint64_t count = 0;
  for (const Sequence& s : sequences) count += std::accumulate(s.mask.begin(), s.mask.end(), uint64_t{0});
  return count;
}

Batch MakeBatch(std::span<const Sequence> sequences, std::span<const uint32_t> members) {
  int64_t length = 0;
  for (uint32_t m : members) length = std::max<int64_t>(length, sequences[m].inputs.size());
  const int64_t count = members.size();
  Batch batch;
  batch.members.assign(members.begin(), members.end());
  batch.ids = at::zeros({count, length}, at::kLong);
  batch.targets = at::zeros({count, length}, at::kLong);
  batch.weights = at::zeros({count, length}, at::kFloat);
  batch.rows = at::zeros({count * length}, at::kLong);
  for (int64_t b = 0; b < count; ++b) {
    const Sequence& s = sequences[members[b]];
    int64_t* ids = batch.ids.data_ptr<int64_t>() + b * length;
    int64_t* targets = batch.targets.data_ptr<int64_t>() + b * length;
    float* weights = batch.weights.data_ptr<float>() + b * length;
    int64_t* rows = batch.rows.data_ptr<int64_t>() + b * length;
    for (size_t t = 0; t < s.inputs.size(); ++t) {
      ids[t] = s.inputs[t];
      targets[t] = s.targets[t];
      weights[t] = s.mask[t];
      rows[t] = static_cast<int64_t>(s.first_row + t);
    }
  }
  return batch;
}

std::vector<std::vector<uint32_t>> PlanBatches(std::span<const Sequence> sequences, uint32_t size, uint64_t seed) {
  constexpr size_t kBucket = 32;  // tokens: sequences within one bucket are mixed freely
  std::mt19937_64 random(seed);
  std::vector<uint32_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0u);
  Shuffle(order, random);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return sequences[a].inputs.size() / kBucket < sequences[b].inputs.size() / kBucket;
  });
  std::vector<std::vector<uint32_t>> plan;
  for (size_t i = 0; i < order.size(); i += size) {
    plan.emplace_back(order.begin() + i, order.begin() + std::min(order.size(), i + size));
  }
  Shuffle(plan, random);
  return plan;
}

}  // namespace pointsman
