#include "indexer/gate_search.h"

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "indexer/evaluation/statistics.h"
#include "indexer/output_memory.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

// The damage that the gate must stay under while it is calibrated, as a part of the bound: the other half of the
// unrelated text decides, and it is another sample.
constexpr double kDamageMargin = 0.25;

// "lo 0.412, hi 0.530", of each group where there are several.
std::string RampsText(const OwnedGate& gate) {
  std::string text;
  for (const GateGroup& group : gate.groups) {
    text += fmt::format("{}{}{}lo {:.3f}, hi {:.3f}", text.empty() ? "" : "; ", group.name,
                        group.name.empty() ? "" : " ", group.lo, group.hi);
  }
  return text;
}

class GateSearch {
 public:
  GateSearch(const LossModel& model, const ScoredText& unrelated, const GateSearchOptions& options)
      : model_(model), unrelated_(unrelated), options_(options) {
    frozen_ = ScoreSequences(model_, unrelated_.sequences, {}, {.threads = options_.threads});
    frozen_sums_ = SumByDocument(unrelated_, frozen_);
  }

  // Sets candidate.tables.gate to `gate` with the ramp found.
  Status Run(const GateSamples& samples, OwnedGate gate, Candidate& candidate) const {
    const auto harmless = [&](const OwnedGate& tried, const GateQuantiles& quantiles) -> Result<bool> {
      candidate.tables.gate = tried;
      POINTSMAN_TRY(const Estimate damage, Damage(candidate, OpenSequences(samples.unrelated, tried)));
      const bool good = damage.ci95.high < kDamageMargin * options_.damage_bound;
      Say(
          fmt::format("gate for {}: {:.2f} % of unrelated text, {:.0f} % of reference ({}): damage {:+.5f} nats, 95 % "
                      "below {:+.5f}: {}",
                      candidate.name, 100 * quantiles.unrelated, 100 * quantiles.related, RampsText(tried), damage.mean,
                      damage.ci95.high, good ? "good" : "too much"));
      return good;
    };
    POINTSMAN_TRY(const auto chosen, SetMostOpenRamp(samples, harmless, gate));
    candidate.tables.gate = gate;
    Say(fmt::format("gate for {}: {}, open {:.0f} % on reference text{}", candidate.name, RampsText(gate),
                    100 * Openness(samples.related, gate), chosen ? "" : "; even this one does damage"));
    return {};
  }

 private:
  // A sequence for which the gate never opens keeps the frozen model's losses, which its bits would give again: only
  // `opened` ones are computed.
  Result<Estimate> Damage(const Candidate& candidate, std::span<const size_t> opened) const {
    std::vector<Sequence> sequences;
    for (size_t i : opened) sequences.push_back(unrelated_.sequences[i]);
    const auto errors = std::make_shared<HookErrors>();
    const auto some = ScoreSequences(model_, sequences, TableHooks(MakeTables(candidate.tables), errors),
                                     {.threads = options_.threads});
    POINTSMAN_CHECK_OK(errors->first());
    POINTSMAN_CHECK_OK(model_.status());
    std::vector<SequenceScore> scores = frozen_;
    for (size_t i = 0; i < opened.size(); ++i) scores[opened[i]] = some[i];
    POINTSMAN_TRY(const auto differences, PairedDifferences(SumByDocument(unrelated_, scores), frozen_sums_));
    return EstimateDifference(differences, {options_.seed});
  }

  void Say(const std::string& line) const {
    if (options_.say) options_.say(line);
  }

  const LossModel& model_;
  const ScoredText& unrelated_;
  const GateSearchOptions& options_;
  std::vector<SequenceScore> frozen_;
  std::vector<DocumentNll> frozen_sums_;
};

// tau, lambda and tau2 are chosen under a first ramp, by quantiles: the search for the final one needs them, and the
// best weights hardly depend on how soon the gate opens.
Status AddOutput(const LossModel& model, const ReferenceSet& set, const GateSamples& samples, OwnedGate gate,
                 const GateSearchOptions& options, Candidate& candidate) {
  const auto started = std::chrono::steady_clock::now();
  SetRamp(samples, GateQuantiles{}, gate);
  candidate.tables.gate = std::move(gate);
  POINTSMAN_TRY(candidate.tables.output, MakeOutput(model, set, candidate.tables, {.threads = options.threads}));
  POINTSMAN_TRY(const OutputTuning tuning, TuneOutput(model, set.calibration, candidate.tables, options.threads));
  candidate.build_s += SecondsSince(started);
  if (options.say) {
    options.say(fmt::format("output memory for {}: tau {:g}, lambda {:g}, tau2 {:g}, calibration {:.4f} -> {:.4f} nats",
                            candidate.name, candidate.tables.output.tau, candidate.tables.output.lambda,
                            candidate.tables.output.tau2, tuning.before, tuning.after));
  }
  return {};
}

}  // namespace

Status SearchGates(const LossModel& model, const ReferenceSet& set, std::span<const Sequence> learned,
                   const ScoredText& unrelated, const GateSearchOptions& options, std::vector<Candidate>& candidates) {
  POINTSMAN_TRY(const OwnedGate gate, MakeGate(set.reference, learned, set.gate_groups, options.gate));
  const GateSamples samples = SampleGate(gate, set.calibration, unrelated.sequences, set.gate_groups);
  const GateSearch search(model, unrelated, options);
  for (Candidate& candidate : candidates) {
    if (options.output_memory) POINTSMAN_CHECK_OK(AddOutput(model, set, samples, gate, options, candidate));
    POINTSMAN_CHECK_OK(search.Run(samples, gate, candidate));
  }
  return {};
}

}  // namespace pointsman
