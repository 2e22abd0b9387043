// Sequences with something to learn, and a tiny model to learn it with. Header-only; included by tests alone.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "adapt/sequences.h"
#include "models/model.h"
#include "models/testing/tiny_model.h"

namespace pointsman::testing {

// `count` sequences of `length` tokens: each a noisy walk over a small alphabet, so that the next token is predictable.
inline std::vector<Sequence> PredictableText(size_t count, size_t length, uint32_t seed, int32_t alphabet = 20) {
  std::mt19937 random(seed);
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < count; ++i) {
    Sequence s;
    int32_t token = static_cast<int32_t>(random() % alphabet);
    for (size_t t = 0; t < length; ++t) {
      const int32_t next = random() % 8 == 0 ? static_cast<int32_t>(random() % alphabet) : (token * 7 + 3) % alphabet;
      s.inputs.push_back(token);
      s.targets.push_back(next);
      s.mask.push_back(1);
      token = next;
    }
    s.document = static_cast<uint32_t>(i);
    s.group = static_cast<uint32_t>(i / 2);  // two documents a near-duplicate cluster
    sequences.push_back(std::move(s));
  }
  NumberRows(sequences);
  return sequences;
}

inline std::unique_ptr<MoeModel> LoadTinyModel(const TinyModelShape& shape = {}) {
  TemporaryDirectory directory;
  WriteTinyModel(directory.path(), shape);
  auto model = MoeModel::Load(directory.path());
  return model.ok() ? std::move(model).value() : nullptr;
}

}  // namespace pointsman::testing
