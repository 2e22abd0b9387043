#include "indexer/reference_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "indexer/corpus.h"

namespace pointsman {
namespace {

constexpr uint64_t kMinRowsPerDimension = 4;  // fewer rows than this a key dimension give a meaningless whitening

Status CheckEnough(const ReferenceSet& set, uint32_t key_dim) {
  const uint64_t needed = kMinRowsPerDimension * key_dim;
  if (CountTargets(set.reference) < needed) {
    return Error{ErrorCode::kInvalidArgument, "reference text: " + std::to_string(CountTargets(set.reference)) +
                                                  " tokens, a memory needs at least " + std::to_string(needed) +
                                                  "; give more --corpus text or a higher --max-tokens"};
  }
  if (set.calibration.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "calibration split: empty; training cannot know when to stop: give a corpus of more documents "
                 "(dozens at least, near-duplicates count once)"};
  }
  return {};
}

// A group without text of its own to learn its ramp from would never open.
Status CheckGroups(const ReferenceSet& set) {
  const DocumentGroups& groups = set.gate_groups;
  if (groups.names.size() < 2) return {};
  for (uint32_t group = 0; group < groups.names.size(); ++group) {
    const auto is_own = [&](const Sequence& s) { return groups.Of(s) == group; };
    const bool has_reference = std::ranges::any_of(set.reference, is_own);
    if (has_reference && std::ranges::any_of(set.calibration, is_own)) continue;
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("group {}: none of its documents is of the {} split; give more of them (dozens at least, "
                             "near-duplicates count once), or leave the group out",
                             groups.names[group], has_reference ? "calibration" : "reference")};
  }
  return {};
}

}  // namespace

Result<ReferenceSet> MakeReferenceSet(const LossModel& model, std::span<const Document> documents,
                                      const ReferenceOptions& options) {
  const SequenceOptions sequence_options = SequenceOptionsOf(model.config());
  ReferenceSet set;
  set.reference = MakeSequences(documents, SplitRole::kReference, sequence_options);
  set.calibration = MakeSequences(documents, SplitRole::kCalibration, sequence_options);
  POINTSMAN_CHECK_OK(CheckEnough(set, options.key_dim));
  POINTSMAN_TRY(set.gate_groups, GroupsOf(documents, options.groups));
  POINTSMAN_CHECK_OK(CheckGroups(set));

  std::vector<uint32_t> index(documents.size(), kNoDocument);
  for (size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].role != SplitRole::kReference) continue;
    index[i] = static_cast<uint32_t>(set.names.size());
    set.names.push_back(documents[i].source);
    set.hashes.push_back(documents[i].hash);
  }
  for (const Sequence& s : set.reference) {
    for (uint32_t t = 0; t < s.inputs.size(); ++t) {
      set.refs.push_back({index[s.document], s.position + t});
      set.groups.push_back(s.group);
    }
  }
  set.hidden = CaptureHidden(model, set.reference, {options.threads, options.on_progress});
  POINTSMAN_CHECK_OK(model.status());
  const uint32_t key_dim = std::min<uint32_t>(options.key_dim, static_cast<uint32_t>(model.config().hidden_size));
  for (const at::Tensor& hidden : set.hidden) {
    POINTSMAN_TRY(LayerKeys keys, MakeKeys(hidden, key_dim));
    set.keys.push_back(std::move(keys));
  }
  return set;
}

}  // namespace pointsman
