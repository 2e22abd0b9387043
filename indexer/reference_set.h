// The reference text as the trainers see it: sequences, the frozen model's router inputs, keys, and for every row the
// document position that it came from.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adapt/capture.h"
#include "adapt/sequences.h"
#include "indexer/document_groups.h"
#include "memory/document.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/loss_model.h"

namespace pointsman {

struct ReferenceOptions {
  uint32_t key_dim = 64;            // whitened (findings section 4)
  std::vector<std::string> groups;  // of documents, by their tags; fewer than two: one
  int threads = 1;
  std::function<void(uint64_t tokens)> on_progress;
};

struct ReferenceSet {
  std::vector<std::string> names;   // reference documents, by EntryRef::document
  std::vector<uint64_t> hashes;     // parallel to names
  std::vector<Sequence> reference;  // rows numbered
  std::vector<Sequence> calibration;
  std::vector<at::Tensor> hidden;  // [layer] = [N, H] fp32
  std::vector<LayerKeys> keys;     // [layer], whitened
  std::vector<EntryRef> refs;      // [N]: the position of the token that the entry votes for
  std::vector<uint32_t> groups;    // [N]: near-duplicate cluster
  DocumentGroups gate_groups;      // of `reference` and `calibration`
  uint64_t tokens() const { return refs.size(); }
};

// Captures (frozen forward, teacher forcing) and fits the key transforms. Errors: kInvalidArgument when there is too
// little reference or calibration text, or none of a group, naming the remedy.
Result<ReferenceSet> MakeReferenceSet(const LossModel& model, std::span<const Document> documents,
                                      const ReferenceOptions& options);

}  // namespace pointsman
