#include "memory/without_documents.h"

#include <algorithm>
#include <set>
#include <utility>

#include "memory/copy_tables.h"
#include "memory/table_fields.h"

namespace pointsman {
namespace {

uint64_t PairOf(int32_t previous, int32_t token) {
  return uint64_t{static_cast<uint32_t>(previous)} << 32 | static_cast<uint32_t>(token);
}

template <typename T>
void SortUnique(std::vector<T>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

class Remover {
 public:
  Remover(const RoutingTables& tables, std::span<const std::string> names) : tables_(tables) {
    const std::set<std::string> wanted(names.begin(), names.end());
    for (const std::string& name : tables.documents) gone_.push_back(!name.empty() && wanted.contains(name));
  }

  Removal Run(const GatePairs* pairs) {
    OwnedTables& to = removal_.tables;
    SetCommonFields(tables_, to);
    for (size_t i = 0; i < gone_.size(); ++i) {
      if (gone_[i]) to.documents[i].clear();
    }
    for (const LayerView& layer : tables_.layers) AddLayer(layer);
    if (tables_.output.enabled) AddOutput(tables_.output);
    AddGate(tables_.gate, pairs);
    const bool nothing_left = to.layers.empty() && !to.output.enabled;
    if (nothing_left || (to.gate.enabled && to.gate.pairs.empty())) {
      to.layers.clear();
      to.output = {};
      to.gate = {};
    }
    return std::move(removal_);
  }

 private:
  bool IsGone(const EntryRef& reference) const {
    return reference.document < gone_.size() && gone_[reference.document];
  }

  bool Drops(std::span<const EntryRef> references) const {
    if (tables_.kind == MemoryKind::kEntries) return IsGone(references.front());
    size_t used = 0, deleted = 0;
    bool now = false;
    for (const EntryRef& reference : references) {
      const bool before = reference.document == kNoDocument && reference.position == kDeletedPosition;
      used += before || reference.document != kNoDocument;
      deleted += before || IsGone(reference);
      now = now || IsGone(reference);
    }
    return now && 2 * deleted > used;
  }

  void AddLayer(const LayerView& layer) {
    const uint64_t rows = layer.keys.rows;
    const uint64_t per_row = rows == 0 ? 0 : layer.references.size() / rows;
    std::vector<uint64_t> kept;
    for (uint64_t row = 0; row < rows; ++row) {
      if (per_row == 0 || !Drops(layer.references.subspan(row * per_row, per_row))) kept.push_back(row);
    }
    removal_.rows += rows - kept.size();
    if (kept.empty() && rows > 0) return;
    OwnedLayer owned = CopyRows(layer, kept);
    for (EntryRef& reference : owned.references) {
      if (!IsGone(reference)) continue;
      reference = {kNoDocument, kDeletedPosition};
      removal_.references += 1;
    }
    removal_.tables.layers.push_back(std::move(owned));
  }

  void AddOutput(const OutputView& output) {
    std::vector<uint64_t> kept;
    for (uint64_t row = 0; row < output.keys.rows; ++row) {
      if (output.references.empty() || !IsGone(output.references[row])) kept.push_back(row);
    }
    removal_.output_rows = output.keys.rows - kept.size();
    if (kept.empty()) return;
    removal_.tables.output = CopyRows(output, kept);
  }

  // A pair that no document has inside begins one: it stays while another document begins with the same token.
  static bool Stays(uint64_t pair, const DocumentPairs& remaining, const DocumentPairs& gone) {
    const auto token = static_cast<uint32_t>(pair);
    return remaining.HasPair(pair) || (!gone.HasPair(pair) && (remaining.Begins(token) || !gone.Begins(token)));
  }

  void AddGate(const GateView& gate, const GatePairs* known) {
    OwnedGate& to = removal_.tables.gate;
    to = CopyGate(gate);
    if (known == nullptr) return;
    to.pairs.clear();
    to.is_common.clear();
    to.pair_groups.clear();
    const bool marked = !gate.pair_groups.empty();
    for (size_t i = 0; i < gate.pairs.size(); ++i) {
      const uint64_t pair = gate.pairs[i];
      const uint32_t before = marked ? gate.pair_groups[i] : 1;
      uint32_t left = before;
      for (size_t group = 0; group < gate.groups.size(); ++group) {
        if (!Stays(pair, known->remaining[group], known->gone[group])) left &= ~(uint32_t{1} << group);
      }
      removal_.pairs += left != before;
      if (left == 0) continue;
      to.pairs.push_back(pair);
      to.is_common.push_back(gate.is_common[i]);
      if (marked) to.pair_groups.push_back(static_cast<uint16_t>(left));
    }
  }

  const RoutingTables& tables_;
  std::vector<bool> gone_;  // by EntryRef::document
  Removal removal_;
};

}  // namespace

void DocumentPairs::Add(std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  first_.push_back(static_cast<uint32_t>(tokens.front()));
  for (size_t i = 1; i < tokens.size(); ++i) pairs_.push_back(PairOf(tokens[i - 1], tokens[i]));
}

void DocumentPairs::Finish() {
  SortUnique(pairs_);
  SortUnique(first_);
}

bool DocumentPairs::HasPair(uint64_t pair) const { return std::binary_search(pairs_.begin(), pairs_.end(), pair); }

bool DocumentPairs::Begins(uint32_t token) const { return std::binary_search(first_.begin(), first_.end(), token); }

Removal WithoutDocuments(const RoutingTables& tables, std::span<const std::string> names, const GatePairs* pairs) {
  return Remover(tables, names).Run(pairs);
}

}  // namespace pointsman
