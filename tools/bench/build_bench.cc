#include "tools/bench/build_bench.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "adapt/token_values.h"
#include "indexer/candidates.h"
#include "indexer/job.h"
#include "indexer/reference_set.h"
#include "tools/bench/bench_clock.h"
#include "tools/bench/child_output.h"

namespace pointsman {
namespace {

// Two epochs: training's patience cannot end them early, so that every side does all steps.
constexpr int kEpochs = 2;
// Differences of the final loss, in nats, that count as the same values: knn has one answer up to rounding; prototypes
// start from a k-means whose first centroids each library draws differently.
constexpr double kSameKnn = 0.002, kSamePrototypes = 0.05;

struct Timing {
  double seconds = 0, cpu_seconds = 0, nll = 0;
};

nlohmann::json WindowsJson(std::span<const Sequence> sequences) {
  nlohmann::json windows = nlohmann::json::array();
  for (const Sequence& s : sequences)
    windows.push_back({{"inputs", s.inputs}, {"targets", s.targets}, {"mask", s.mask}});
  return windows;
}

// The order of work that the scripts read (tools/bench/build_work.py).
nlohmann::json WorkOrder(const BuildBenchOptions& options, const ReferenceSet& set) {
  const PrototypeOptions p;
  const TokenValueOptions knn;
  const TrainOptions train;
  nlohmann::json plan = nlohmann::json::array();
  for (int epoch = 1; epoch <= kEpochs; ++epoch) {
    plan.push_back(PlanBatches(set.reference, train.batch_sequences, options.data.seed * 1000003 + epoch));
  }
  return {{"model", std::filesystem::absolute(options.data.model).string()},
          {"threads", options.data.threads},
          {"values", options.values},
          {"reference", WindowsJson(set.reference)},
          {"held_out", WindowsJson(set.calibration)},
          {"plan", plan},
          {"settings",
           {{"seed", options.data.seed},
            {"key_dim", ReferenceOptions{}.key_dim},
            {"kmeans_iterations", kKMeansIterations},
            {"prototypes", options.prototypes},
            {"tau", p.tau},
            {"tau2", p.tau2},
            {"knn_steps", knn.steps},
            {"knn_rate", knn.rate},
            {"rates",
             {{"values", p.value_rate},
              {"centers", p.key_rate},
              {"projection", p.projection_rate},
              {"log_tau", p.scalar_rate},
              {"log_tau2", p.scalar_rate},
              {"delta", p.linear.router_delta_rate},
              {"table", p.linear.token_table_rate}}}}}};
}

// A file that goes away with the object.
class WorkFile {
 public:
  static Result<std::unique_ptr<WorkFile>> Write(const std::string& text) {
    const std::filesystem::path folder = std::filesystem::temp_directory_path();
    std::string name = (folder / "pointsman_bench_XXXXXX").string();
    const int file = mkstemp(name.data());
    if (file < 0) return Error{ErrorCode::kIo, folder.string() + ": no file can be made here; set TMPDIR to a folder"};
    close(file);
    std::unique_ptr<WorkFile> work(new WorkFile(name));
    std::ofstream out(name);
    if (!(out << text).flush())
      return Error{ErrorCode::kIo, name + ": cannot be written; free some space in its folder"};
    return work;
  }
  ~WorkFile() { std::remove(name_.c_str()); }
  WorkFile(const WorkFile&) = delete;
  WorkFile& operator=(const WorkFile&) = delete;
  const std::string& name() const { return name_; }

 private:
  explicit WorkFile(std::string name) : name_(std::move(name)) {}
  std::string name_;
};

Result<Timing> RunScript(const BuildBenchOptions& options, const std::string& script, const std::string& work) {
  POINTSMAN_TRY(const nlohmann::json answer,
                JsonOfChild({options.python.string(), (options.scripts / script).string(), work}, "tools/setup bench",
                            fmt::format("OMP_NUM_THREADS={}", options.data.threads)));
  return Timing{answer.value("seconds", 0.0), answer.value("cpu_seconds", 0.0), answer.value("nll", 0.0)};
}

// Our own side, as `build` does it.
Result<Timing> RunOurs(const BuildBenchOptions& options, const MoeModel& model, const Corpus& corpus) {
  const BenchClock wall(0), cpu(1);
  const double started = wall.Now(), cpu_started = cpu.Now();
  ReferenceOptions reference;
  reference.threads = options.data.threads;
  POINTSMAN_TRY(const ReferenceSet set, MakeReferenceSet(model, corpus.documents, reference));
  CandidateOptions candidate;
  candidate.epochs = kEpochs;
  candidate.seed = options.data.seed;
  candidate.threads = options.data.threads;
  candidate.noise = 0;  // the scripts could not draw the same numbers
  PrototypeOptions prototypes;
  prototypes.count = options.prototypes;
  POINTSMAN_TRY(const Candidate made, options.values == "knn" ? BuildKnn(model, set, candidate)
                                                              : TrainPrototypes(model, set, prototypes, candidate));
  return Timing{wall.Now() - started, cpu.Now() - cpu_started, made.training.best_nll};
}

// What our knn values make of the tokens that they were optimised on; not timed.
double KnnNll(const BuildBenchOptions& options, const MoeModel& model, const ReferenceSet& set) {
  TokenValueOptions values;
  values.threads = options.data.threads;
  values.keep_values = false;
  return MeanNll(set.reference, OptimizeTokenValues(model, set.reference, values).after);
}

// Held-out text: a sixth of the reference text, as in a build of 50,000 tokens and more. The split's least is too much
// for the small budgets of a measurement.
void ShortenHeldOut(const BuildBenchOptions& options, std::vector<Document>& documents) {
  uint64_t kept = 0;
  std::erase_if(documents, [&](const Document& document) {
    if (document.role != SplitRole::kCalibration) return false;
    const bool full = kept > 0 && kept + document.tokens.size() > options.data.max_tokens / 6;
    if (!full) kept += document.tokens.size();
    return full;
  });
}

// The median round, by processor time where one thread computes (bench_clock.h), else by wall time.
BuildBenchSide Summary(std::string name, const BuildBenchOptions& options, uint64_t tokens,
                       std::vector<Timing> timings) {
  const auto taken = [&](const Timing& t) { return options.data.threads == 1 ? t.cpu_seconds : t.seconds; };
  std::sort(timings.begin(), timings.end(), [&](const Timing& a, const Timing& b) { return taken(a) < taken(b); });
  const Timing& median = timings[timings.size() / 2];
  return {std::move(name), static_cast<double>(tokens) / taken(median), median.cpu_seconds, median.nll};
}

}  // namespace

Result<BuildBenchReport> BenchBuild(const BuildBenchOptions& options) {
  struct Rival {
    const char* name;
    const char* script;
    std::vector<Timing> timings;
  };
  std::vector<Rival> rivals{{"plain", "build_plain.py", {}}, {"pytorch", "build_pytorch.py", {}}};

  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModel(options.data));
  POINTSMAN_TRY(Corpus corpus, LoadCorpus(*model, options.data));
  ShortenHeldOut(options, corpus.documents);
  ReferenceOptions reference;
  reference.threads = options.data.threads;
  POINTSMAN_TRY(const ReferenceSet set, MakeReferenceSet(*model, corpus.documents, reference));
  BuildBenchOptions settled = options;
  settled.prototypes = std::min<uint32_t>(options.prototypes, static_cast<uint32_t>(set.tokens() / 2));
  POINTSMAN_TRY(const std::unique_ptr<WorkFile> work, WorkFile::Write(WorkOrder(settled, set).dump()));

  std::vector<Timing> ours;
  for (int round = 0; round < options.rounds; ++round) {
    POINTSMAN_TRY(const Timing timing, RunOurs(settled, *model, corpus));
    ours.push_back(timing);
    for (Rival& rival : rivals) {
      Say(options.data, fmt::format("round {} of {}: {}", round + 1, options.rounds, rival.script));
      POINTSMAN_TRY(const Timing theirs, RunScript(settled, rival.script, work->name()));
      rival.timings.push_back(theirs);
    }
  }
  BuildBenchReport report{set.tokens(), Summary("pointsman", settled, set.tokens(), ours), {}};
  const bool knn = options.values == "knn";
  if (knn) report.ours.nll = KnnNll(settled, *model, set);
  for (Rival& rival : rivals) {
    report.baselines.push_back(Summary(rival.name, settled, set.tokens(), std::move(rival.timings)));
    const BuildBenchSide& side = report.baselines.back();
    if (!(std::fabs(side.nll - report.ours.nll) <= (knn ? kSameKnn : kSamePrototypes))) {
      return Error{ErrorCode::kInternal,
                   fmt::format("{}: its values reach {:.4f} nats, ours {:.4f}: not the same work, nothing to compare",
                               rival.script, side.nll, report.ours.nll)};
    }
  }
  return report;
}

}  // namespace pointsman
