#include "indexer/evaluation/scoring.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
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

// What the trainings of one variant with several seeds say: the mean loss of each, on test and on unrelated text.
struct SeedMeans {
  std::vector<double> test, unrelated;
};

// The documents' sums averaged over all trainings; they hold the same documents in the same order.
Status AverageOver(std::span<const OtherTraining> others, std::vector<DocumentNll> OtherTraining::*text,
                   std::vector<DocumentNll>& mine) {
  const auto trainings = static_cast<double>(others.size() + 1);
  for (size_t i = 0; i < mine.size(); ++i) {
    double sum = mine[i].nll_sum;
    for (const OtherTraining& other : others) {
      const std::vector<DocumentNll>& documents = other.*text;
      if (documents.size() != mine.size() || documents[i].document != mine[i].document) {
        return Error{ErrorCode::kInvalidArgument,
                     "evaluation: the seeds of a variant were not scored on the same documents; score them again"};
      }
      sum += documents[i].nll_sum;
    }
    mine[i].nll_sum = sum / trainings;
  }
  return {};
}

class Scorer {
 public:
  Scorer(std::span<const VariantRun> runs, const ScoringOptions& options)
      : runs_(runs.begin(), runs.end()), options_(options) {}

  Result<EvalReport> Run() {
    for (VariantRun& run : runs_) POINTSMAN_CHECK_OK(AverageSeeds(run));
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
      if (memory_damage_ && Untouched(*memory_)) {
        report_.notes.push_back(fmt::format(
            "no unrelated document was touched; with {} of them, up to {:.1f}% of such documents may still be (95%)",
            memory_damage_->clusters, 100 * UntouchedBound(memory_damage_->clusters)));
      }
      if (std::string note = DearerKind(report_.variants, options_.verdict); !note.empty()) {
        report_.notes.push_back(std::move(note));
      }
    }
    return std::move(report_);
  }

 private:
  Result<Estimate> Compare(std::span<const DocumentNll> a, std::span<const DocumentNll> b,
                           const std::vector<SeedVariance>& seeds = {}) const {
    POINTSMAN_TRY(const auto differences, PairedDifferences(a, b));
    return EstimateDifference(differences, options_.statistics, seeds);
  }

  Status AverageSeeds(VariantRun& run) {
    if (run.other_seeds.empty()) return {};
    SeedMeans& means = means_[run.name];
    means.test = {MeanNll(run.test)};
    means.unrelated = {MeanNll(run.unrelated)};
    for (const OtherTraining& other : run.other_seeds) {
      means.test.push_back(MeanNll(other.test));
      means.unrelated.push_back(MeanNll(other.unrelated));
    }
    POINTSMAN_CHECK_OK(AverageOver(run.other_seeds, &OtherTraining::test, run.test));
    if (run.unrelated.empty()) return {};
    return AverageOver(run.other_seeds, &OtherTraining::unrelated, run.unrelated);
  }

  // Of the mean over a run's seeds, or of one training among them.
  void AddSeeds(const std::string& name, std::vector<double> SeedMeans::*text, bool one_training,
                std::vector<SeedVariance>& to) const {
    const auto found = means_.find(name);
    if (found == means_.end()) return;
    const std::vector<double>& means = found->second.*text;
    if (const auto variance = VarianceOverSeeds(means, one_training ? 1 : means.size())) to.push_back(*variance);
  }

  void NoteSeeds(const VariantRun& run, VariantScore* score) {
    const auto found = means_.find(run.name);
    if (found == means_.end()) return;
    score->seeds = static_cast<uint32_t>(found->second.test.size());
    score->seed_sd = std::sqrt(VarianceOverSeeds(found->second.test, 1)->of_mean);
    report_.notes.push_back(fmt::format(
        "{}: mean of {} seeds; the gain's standard deviation between seeds is {:.4f}, its intervals hold it", run.name,
        score->seeds, *score->seed_sd));
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
      // Another training of the rival against another build of the memory.
      std::vector<SeedVariance> seeds;
      if (run.name != memory_->recipe) AddSeeds(run.name, &SeedMeans::test, false, seeds);
      AddSeeds(memory_->recipe, &SeedMeans::test, true, seeds);
      POINTSMAN_TRY(const Estimate difference, Compare(run.test, memory_->test, seeds));
      score.vs_memory = difference.ci95;
    }
    NoteSeeds(run, &score);
    report_.variants.push_back(std::move(score));
    return {};
  }

  static bool Untouched(const VariantRun& run) {
    return run.touched && run.touched->documents > 0 && run.touched->untouched_tokens == run.touched->tokens;
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
    std::vector<SeedVariance> test_seeds, unrelated_seeds;
    AddSeeds(run.name, &SeedMeans::test, false, test_seeds);
    AddSeeds(run.name, &SeedMeans::unrelated, false, unrelated_seeds);
    POINTSMAN_TRY(const Estimate gain, Compare(run.test, baseline->test, test_seeds));
    score->gain = gain.mean;
    score->ci95 = gain.ci95;
    score->p = gain.p;
    score->worst = Worst(run.test_sequences, baseline->test_sequences);
    score->worst_unrelated = Worst(run.unrelated_sequences, baseline->unrelated_sequences);
    std::optional<Estimate> damage;
    if (!run.unrelated.empty()) {
      POINTSMAN_TRY(damage, Compare(run.unrelated, baseline->unrelated, unrelated_seeds));
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
    for (std::string& note : CheckControls(controls)) report_.notes.push_back(std::move(note));
    return {};
  }

  std::vector<VariantRun> runs_;            // with their seeds averaged
  std::map<std::string, SeedMeans> means_;  // by name; runs of one training are absent
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
