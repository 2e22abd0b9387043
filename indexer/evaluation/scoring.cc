#include "indexer/evaluation/scoring.h"

#include <algorithm>
#include <utility>

namespace pointsman {
namespace {

const VariantRun* Find(std::span<const VariantRun> runs, const std::string& name) {
  const auto run = std::find_if(runs.begin(), runs.end(), [&](const VariantRun& r) { return r.name == name; });
  return run == runs.end() ? nullptr : &*run;
}

uint64_t Tokens(std::span<const DocumentNll> documents) {
  uint64_t tokens = 0;
  for (const DocumentNll& document : documents) tokens += document.tokens;
  return tokens;
}

double MeanNll(std::span<const DocumentNll> documents) {
  double sum = 0;
  for (const DocumentNll& document : documents) sum += document.nll_sum;
  const uint64_t tokens = Tokens(documents);
  return tokens == 0 ? 0 : sum / static_cast<double>(tokens);
}

// The largest rise of a window's loss against its baseline's, in nats per token; short windows are noise.
std::optional<WorstSequence> Worst(std::span<const SequenceNll> run, std::span<const SequenceNll> baseline) {
  constexpr uint64_t kFewestTokens = 32;
  std::optional<WorstSequence> worst;
  for (size_t i = 0; i < run.size() && run.size() == baseline.size(); ++i) {
    if (run[i].tokens < kFewestTokens) continue;
    const double change = (run[i].nll_sum - baseline[i].nll_sum) / static_cast<double>(run[i].tokens);
    if (!worst || change > worst->change) worst = WorstSequence{change, run[i].tokens};
  }
  return worst;
}

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 1 : static_cast<double>(part) / static_cast<double>(whole);
}

class Scorer {
 public:
  Scorer(std::span<const VariantRun> runs, const ScoringOptions& options) : runs_(runs), options_(options) {}

  Result<EvalReport> Run() {
    const VariantRun* frozen = Find(runs_, "frozen");
    if (frozen == nullptr) {
      return Error{ErrorCode::kInvalidArgument,
                   "evaluation: no variant named frozen to compare with; add it to --variants"};
    }
    report_.documents = frozen->test.size();
    report_.tokens = Tokens(frozen->test);
    report_.unrelated_documents = frozen->unrelated.size();
    report_.unrelated_tokens = Tokens(frozen->unrelated);
    report_.min_gain = options_.verdict.min_gain;
    report_.damage_bound = options_.verdict.damage_bound;
    memory_ = Find(runs_, "memory");
    for (const VariantRun& run : runs_) POINTSMAN_CHECK_OK(Score(run));
    AdjustP();
    FillShares();
    POINTSMAN_CHECK_OK(CheckTheControls());
    if (memory_ == nullptr) {
      report_.reason = "no memory was scored; build one, then give it with --memory";
    } else {
      const Verdict verdict = Decide(memory_gain_, memory_damage_, options_.verdict);
      report_.verdict = verdict.decision;
      report_.reason = verdict.reason;
      report_.dominated_by = DominatedBy(report_.variants, options_.verdict);
      if (std::string note = DearerKind(report_.variants, options_.verdict); !note.empty()) {
        report_.notes.push_back(std::move(note));
      }
    }
    return std::move(report_);
  }

 private:
  Result<Estimate> Compare(std::span<const DocumentNll> a, std::span<const DocumentNll> b) const {
    POINTSMAN_TRY(const auto differences, PairedDifferences(a, b));
    return EstimateDifference(differences, options_.statistics);
  }

  Status Score(const VariantRun& run) {
    VariantScore score;
    score.name = run.name;
    score.nll = MeanNll(run.test);
    score.build_s = run.build_s;
    score.seconds_per_token = run.seconds_per_token;
    score.bytes_per_token = run.bytes_per_token;
    if (run.touched) {
      score.untouched_tokens = Share(run.touched->untouched_tokens, run.touched->tokens);
      score.identical_documents = Share(run.touched->identical_documents, run.touched->documents);
    }
    // A baseline (frozen, or frozen on other tokens) is its own.
    const bool is_baseline = run.name == run.baseline || IsBaseline(run.name);
    if (is_baseline) {
      if (!run.unrelated.empty()) score.damage = 0;
    } else {
      POINTSMAN_CHECK_OK(CompareWithBaseline(run, &score));
    }
    if (memory_ != nullptr && &run != memory_ && run.baseline == memory_->baseline) {
      POINTSMAN_TRY(const Estimate difference, Compare(run.test, memory_->test));
      score.vs_memory = difference.ci95;
    }
    report_.variants.push_back(std::move(score));
    return {};
  }

  bool IsBaseline(const std::string& name) const {
    return std::any_of(runs_.begin(), runs_.end(), [&](const VariantRun& r) { return r.baseline == name; });
  }

  Status CompareWithBaseline(const VariantRun& run, VariantScore* score) {
    const VariantRun* baseline = Find(runs_, run.baseline);
    if (baseline == nullptr) {
      return Error{ErrorCode::kInvalidArgument, "evaluation: variant " + run.name + " is measured from " +
                                                    run.baseline + ", which was not scored; add it to --variants"};
    }
    POINTSMAN_TRY(const Estimate gain, Compare(run.test, baseline->test));
    score->gain = gain.mean;
    score->ci95 = gain.ci95;
    score->p = gain.p;
    score->worst = Worst(run.test_sequences, baseline->test_sequences);
    score->worst_unrelated = Worst(run.unrelated_sequences, baseline->unrelated_sequences);
    std::optional<Estimate> damage;
    if (!run.unrelated.empty()) {
      POINTSMAN_TRY(damage, Compare(run.unrelated, baseline->unrelated));
      score->damage = damage->mean;
      score->damage_ci95 = damage->ci95;
    }
    if (&run == memory_) {
      memory_gain_ = gain;
      memory_damage_ = damage;
    }
    return {};
  }

  void AdjustP() {
    std::vector<double> raw;
    for (const VariantScore& v : report_.variants) {
      if (v.p) raw.push_back(*v.p);
    }
    const std::vector<double> adjusted = HolmAdjust(raw);
    size_t next = 0;
    for (VariantScore& v : report_.variants) {
      if (v.p) v.p = adjusted[next++];
    }
  }

  void FillShares() {
    const auto full = std::find_if(report_.variants.begin(), report_.variants.end(),
                                   [](const VariantScore& v) { return v.name == "full_finetune"; });
    if (full == report_.variants.end() || full->gain >= 0) return;
    const double reference = full->gain;
    for (VariantScore& v : report_.variants) {
      if (v.ci95) v.share = v.gain / reference;
    }
  }

  Status CheckTheControls() {
    const VariantRun* bias = Find(runs_, "bias");
    std::vector<ControlInterval> controls;
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (KindOf(runs_[i].name) != VariantKind::kControl) continue;
      ControlInterval control{runs_[i].name, std::nullopt, report_.variants[i].vs_memory};
      if (bias != nullptr) {
        POINTSMAN_TRY(const Estimate difference, Compare(runs_[i].test, bias->test));
        control.versus_bias = difference.ci95;
      }
      controls.push_back(std::move(control));
    }
    report_.notes = CheckControls(controls);
    return {};
  }

  std::span<const VariantRun> runs_;
  const ScoringOptions& options_;
  const VariantRun* memory_ = nullptr;
  Estimate memory_gain_;
  std::optional<Estimate> memory_damage_;
  EvalReport report_;
};

}  // namespace

Result<EvalReport> MakeReport(std::span<const VariantRun> runs, const ScoringOptions& options) {
  return Scorer(runs, options).Run();
}

VerdictSummary Summarize(const EvalReport& report) {
  VerdictSummary summary;
  summary.verdict = DecisionText(report.verdict);
  summary.stale = report.stale;
  summary.test_documents = report.documents;
  summary.test_tokens = report.tokens;
  for (const VariantScore& v : report.variants) {
    if (KindOf(v.name) != VariantKind::kMemory) continue;
    summary.gain = v.gain;
    const Interval gain = v.ci95.value_or(Interval{v.gain, v.gain});
    summary.gain_low = gain.low;
    summary.gain_high = gain.high;
    summary.damage = v.damage.value_or(0);
    const Interval damage = v.damage_ci95.value_or(Interval{summary.damage, summary.damage});
    summary.damage_low = damage.low;
    summary.damage_high = damage.high;
  }
  return summary;
}

}  // namespace pointsman
