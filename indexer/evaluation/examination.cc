#include "indexer/evaluation/examination.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_set>

#include "indexer/evaluation/routing_trace.h"
#include "indexer/evaluation/token_groups.h"
#include "memory/gate_groups.h"

namespace pointsman {
namespace {

// Tokens of one group, summed.
class Group {
 public:
  void Add(const Document& document, double frozen, double memory) {
    frozen_ += frozen;
    memory_ += memory;
    ++tokens_;
    documents_.insert(document.hash);
    ClusterDifference& cluster = clusters_[document.cluster];
    cluster.cluster = document.cluster;
    cluster.difference_sum += memory - frozen;
    ++cluster.tokens;
  }
  void Add(const Group& other) {
    frozen_ += other.frozen_;
    memory_ += other.memory_;
    tokens_ += other.tokens_;
    documents_.insert(other.documents_.begin(), other.documents_.end());
    for (const auto& [key, part] : other.clusters_) {
      ClusterDifference& cluster = clusters_[key];
      cluster.cluster = key;
      cluster.difference_sum += part.difference_sum;
      cluster.tokens += part.tokens;
    }
  }
  uint64_t tokens() const { return tokens_; }

  BreakdownRow Row(const std::string& by, const std::string& name, const StatisticsOptions& statistics) const {
    const auto n = static_cast<double>(tokens_);
    BreakdownRow row{.by = by, .name = name, .documents = documents_.size(), .tokens = tokens_};
    row.frozen_nll = frozen_ / n;
    row.memory_nll = memory_ / n;
    std::vector<ClusterDifference> differences;
    for (const auto& [key, cluster] : clusters_) differences.push_back(cluster);
    row.gain = WeightedMean(differences);
    const Interval interval = BootstrapInterval(differences, statistics);
    if (std::isfinite(interval.low) && std::isfinite(interval.high)) row.ci95 = interval;
    return row;
  }

 private:
  double frozen_ = 0, memory_ = 0;
  uint64_t tokens_ = 0;
  std::set<uint64_t> documents_;
  std::map<uint64_t, ClusterDifference> clusters_;
};

// All groups of one grouping, in the order of their names.
class Grouping {
 public:
  void Add(const std::string& name, const Document& document, double frozen, double memory) {
    groups_[name].Add(document, frozen, memory);
  }
  // Largest first; beyond `most` they are one row. Ties by name.
  std::vector<BreakdownRow> Largest(const std::string& by, size_t most, const StatisticsOptions& statistics) const {
    std::vector<std::pair<std::string, const Group*>> order;
    for (const auto& [name, group] : groups_) order.emplace_back(name, &group);
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.second->tokens() > b.second->tokens(); });
    std::vector<BreakdownRow> rows;
    Group others;
    const size_t shown = order.size() > most ? most - 1 : order.size();
    for (size_t i = 0; i < order.size(); ++i) {
      if (i < shown) {
        rows.push_back(order[i].second->Row(by, order[i].first, statistics));
      } else {
        others.Add(*order[i].second);
      }
    }
    if (others.tokens() > 0) {
      rows.push_back(others.Row(by, std::to_string(order.size() - shown) + " others", statistics));
    }
    return rows;
  }

 private:
  std::map<std::string, Group> groups_;
};

class Examination {
 public:
  explicit Examination(const ExaminationInputs& inputs) : in_(inputs) {
    std::vector<std::string> sources;
    for (const Document& d : in_.test->documents) sources.push_back(d.source);
    kind_names_ = GroupByKind(sources);
    const std::vector<std::string> names = GroupNames(in_.tables->gate.groups);
    KindGrouping group{"group", std::vector<std::string>(sources.size())};
    for (size_t i = 0; i < sources.size(); ++i) {
      if (const auto own = GroupOfTags(in_.test->documents[i].tags, names)) group.kind[i] = names[*own];
    }
    if (names.size() > 1) kind_names_.insert(kind_names_.begin(), std::move(group));
    kinds_.resize(kind_names_.size());
  }

  Result<Breakdown> Run() {
    for (size_t i = 0; i < in_.test->sequences.size(); ++i) AddSequence(i);
    TallyOptions options;
    options.threads = in_.threads;
    POINTSMAN_TRY(const RoutingTally tally, TallyRouting(*in_.model, in_.tables, in_.test->sequences, options));
    Breakdown result;
    result.traced_tokens = tally.tokens;
    for (size_t i = 0; i < kinds_.size(); ++i) {
      const std::string& by = kind_names_[i].by;
      Append(kinds_[i], by, by == "group" ? kMostGateGroups : kMaxKinds, result.kinds);
    }
    Append(classes_, "text", kTokenClasses, result.classes);
    Append(repetition_, "repetition", 2, result.classes);
    for (const auto& [bin, group] : positions_) {
      BreakdownRow row = group.Row("position", PositionBinText(bin), in_.statistics);
      row.gate = MeanGate(tally, bin);
      result.positions.push_back(std::move(row));
    }
    for (const LayerTally& layer : tally.layers) result.layers.push_back(LayerOf(layer));
    return result;
  }

 private:
  void AddSequence(size_t index) {
    const Sequence& sequence = in_.test->sequences[index];
    const Document& document = in_.test->documents[sequence.document];
    if (sequence.document != current_ || index == 0) {
      current_ = sequence.document;
      seen_.clear();
    }
    const std::vector<float>& frozen = in_.frozen->test[index].nll;
    const std::vector<float>& memory = in_.memory->test[index].nll;
    for (size_t t = 0; t < sequence.targets.size(); ++t) {
      const bool is_new = seen_.insert(sequence.targets[t]).second;
      if (!sequence.mask[t]) continue;
      for (size_t k = 0; k < kinds_.size(); ++k) {
        const std::string& name = kind_names_[k].kind[sequence.document];
        if (!name.empty()) kinds_[k].Add(name, document, frozen[t], memory[t]);
      }
      classes_.Add(TokenClassText(ClassOf(sequence.targets[t])), document, frozen[t], memory[t]);
      repetition_.Add(is_new ? "new in the document" : "repeated", document, frozen[t], memory[t]);
      positions_[PositionBin(t)].Add(document, frozen[t], memory[t]);
    }
  }

  TokenClass ClassOf(int32_t token) {
    const auto [at, fresh] = class_of_.try_emplace(token, TokenClass::kOther);
    if (fresh) at->second = TokenClassOf(in_.model->tokenizer().Decode(std::span(&token, 1), /*skip_special=*/false));
    return at->second;
  }

  void Append(const Grouping& grouping, const std::string& by, size_t most, std::vector<BreakdownRow>& rows) const {
    for (BreakdownRow& row : grouping.Largest(by, most, in_.statistics)) rows.push_back(std::move(row));
  }

  static std::optional<double> MeanGate(const RoutingTally& tally, size_t bin) {
    double sum = 0;
    uint64_t tokens = 0;
    for (size_t position = 0; position < tally.gate_sum.size(); ++position) {
      if (PositionBin(position) != bin) continue;
      sum += tally.gate_sum[position];
      tokens += tally.gate_tokens[position];
    }
    return tokens == 0 ? std::nullopt : std::optional(sum / static_cast<double>(tokens));
  }

  static LayerRow LayerOf(const LayerTally& tally) {
    const auto tokens = static_cast<double>(std::max<uint64_t>(1, tally.tokens));
    const auto open = static_cast<double>(std::max<uint64_t>(1, tally.open_tokens));
    return {.layer = tally.layer,
            .changed_tokens = static_cast<double>(tally.changed_tokens) / tokens,
            .changed_experts = static_cast<double>(tally.changed_experts) / tokens,
            .confidence = tally.confidence_sum / open};
  }

  const ExaminationInputs& in_;
  std::vector<KindGrouping> kind_names_;
  std::vector<Grouping> kinds_;  // parallel to kind_names_
  Grouping classes_, repetition_;
  std::map<size_t, Group> positions_;  // by bin
  std::map<int32_t, TokenClass> class_of_;
  std::unordered_set<int32_t> seen_;  // token ids of the document so far
  uint32_t current_ = 0;              // the document that `seen_` is of
};

}  // namespace

Result<Breakdown> Examine(const ExaminationInputs& inputs) { return Examination(inputs).Run(); }

}  // namespace pointsman
