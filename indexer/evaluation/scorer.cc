#include "indexer/evaluation/scorer.h"

#include <chrono>
#include <map>
#include <numeric>
#include <utility>

#include "indexer/corpus.h"
#include "memory/stopwatch.h"
#include "models/router_hook.h"
#include "router/router.h"

namespace pointsman {
namespace {

class TableHook : public RoutingHook {
 public:
  TableHook(const std::shared_ptr<const RoutingTables>& tables, std::shared_ptr<HookErrors> errors, size_t sequences,
            float strength, std::vector<uint32_t>* slots)
      : hook_(router_), errors_(std::move(errors)) {
    for (size_t i = 0; i < sequences; ++i) {
      Binding binding;
      binding.tables = tables;
      binding.strength = strength;
      slots->push_back(router_.AddSlot(std::move(binding)));
    }
  }
  ~TableHook() override { errors_->Report(hook_.status()); }
  void BeginStep(const StepInfo& step) override { hook_.BeginStep(step); }
  at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
    return hook_.Route(layer, hidden, logits);
  }
  at::Tensor Output(const at::Tensor& hidden, const at::Tensor& logits) override {
    return hook_.Output(hidden, logits);
  }
  Status status() const override { return hook_.status(); }

 private:
  Router router_;
  RouterHook hook_;
  std::shared_ptr<HookErrors> errors_;
};

}  // namespace

void HookErrors::Report(const Status& status) {
  if (status.ok()) return;
  const std::scoped_lock lock(mutex_);
  if (first_.ok()) first_ = status;
}

Status HookErrors::first() const {
  const std::scoped_lock lock(mutex_);
  return first_;
}

ScoredText MakeScoredText(const LossModel& model, std::vector<Document> documents, SplitRole role) {
  ScoredText text{std::move(documents), {}};
  text.sequences = MakeSequences(text.documents, role, SequenceOptionsOf(model.config()));
  return text;
}

HookFactory TableHooks(std::shared_ptr<const RoutingTables> tables, std::shared_ptr<HookErrors> errors,
                       float strength) {
  return [=](const Batch& batch, std::vector<uint32_t>* slots) {
    return std::make_unique<TableHook>(tables, errors, batch.members.size(), strength, slots);
  };
}

std::vector<DocumentNll> SumByDocument(const ScoredText& text, std::span<const SequenceScore> scores) {
  std::map<uint32_t, DocumentNll> sums;
  for (size_t i = 0; i < scores.size(); ++i) {
    const Sequence& s = text.sequences[i];
    const Document& document = text.documents[s.document];
    DocumentNll& sum = sums[s.document];
    sum.document = document.hash;
    sum.cluster = document.cluster;
    sum.nll_sum = std::accumulate(scores[i].nll.begin(), scores[i].nll.end(), sum.nll_sum);
    sum.tokens += std::accumulate(s.mask.begin(), s.mask.end(), uint64_t{0});
  }
  std::vector<DocumentNll> result;
  for (const auto& [index, sum] : sums) {
    if (sum.tokens > 0) result.push_back(sum);
  }
  return result;
}

std::vector<DocumentNll> SumWithoutRepeated(const ScoredText& text, std::span<const SequenceScore> scores) {
  if (text.repeated.empty()) return {};
  ScoredText fresh{text.documents, text.sequences};
  std::vector<SequenceScore> kept(scores.begin(), scores.end());
  for (size_t i = 0; i < kept.size(); ++i) {
    Sequence& s = fresh.sequences[i];
    for (size_t t = 0; t < s.mask.size(); ++t) {
      if (!text.repeated[s.document][s.position + t]) continue;
      s.mask[t] = 0;
      kept[i].nll[t] = 0;
    }
  }
  return SumByDocument(fresh, kept);
}

std::vector<SequenceNll> SumBySequence(std::span<const Sequence> sequences, std::span<const SequenceScore> scores) {
  std::vector<SequenceNll> sums;
  for (size_t i = 0; i < scores.size(); ++i) {
    sums.push_back({std::accumulate(scores[i].nll.begin(), scores[i].nll.end(), 0.0),
                    std::accumulate(sequences[i].mask.begin(), sequences[i].mask.end(), uint64_t{0})});
  }
  return sums;
}

TouchCounts CountTouches(const ScoredText& text, std::span<const SequenceScore> scores) {
  TouchCounts counts;
  std::map<uint32_t, bool> identical;
  for (size_t i = 0; i < scores.size(); ++i) {
    const uint64_t untouched = std::accumulate(scores[i].untouched.begin(), scores[i].untouched.end(), uint64_t{0});
    counts.tokens += scores[i].untouched.size();
    counts.untouched_tokens += untouched;
    auto [it, fresh] = identical.try_emplace(text.sequences[i].document, true);
    it->second = it->second && untouched == scores[i].untouched.size();
  }
  counts.documents = identical.size();
  for (const auto& [document, same] : identical) counts.identical_documents += same;
  return counts;
}

Result<VariantRun> ScoreVariant(const std::string& name, const LossModel& model, const HookFactory& hooks,
                                const std::shared_ptr<HookErrors>& errors, const ScoredText& test,
                                const ScoredText& unrelated, const ScorerOptions& options) {
  const ScoreOptions score_options{.threads = options.threads, .on_progress = options.on_progress};
  VariantRun run;
  run.name = name;
  const auto started = std::chrono::steady_clock::now();
  std::vector<SequenceScore> test_scores = ScoreSequences(model, test.sequences, hooks, score_options);
  run.test_sequences = SumBySequence(test.sequences, test_scores);
  const double seconds = SecondsSince(started);
  run.test = SumByDocument(test, test_scores);
  run.test_fresh = SumWithoutRepeated(test, test_scores);
  if (options.keep != nullptr) options.keep->test = std::move(test_scores);
  const uint64_t tokens = CountTargets(test.sequences);
  if (tokens > 0) run.seconds_per_token = seconds / static_cast<double>(tokens);
  if (!unrelated.sequences.empty()) {
    std::vector<SequenceScore> scores = ScoreSequences(model, unrelated.sequences, hooks, score_options);
    run.unrelated = SumByDocument(unrelated, scores);
    run.unrelated_sequences = SumBySequence(unrelated.sequences, scores);
    run.touched = CountTouches(unrelated, scores);
    if (options.keep != nullptr) options.keep->unrelated = std::move(scores);
  }
  POINTSMAN_CHECK_OK(model.status());
  if (errors) POINTSMAN_CHECK_OK(errors->first());
  return run;
}

}  // namespace pointsman
