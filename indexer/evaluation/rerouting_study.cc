#include "indexer/evaluation/rerouting_study.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "indexer/corpus.h"
#include "indexer/evaluation/rerouting_scorer.h"
#include "indexer/job.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

// The window with only `context` tokens before the scored ones.
Sequence WithContext(const Sequence& window, uint32_t context) {
  const size_t begin = kStudyContext - context,
               end = std::min<size_t>(window.inputs.size(), kStudyContext + kStudyScored);
  Sequence cut = window;
  cut.inputs.assign(window.inputs.begin() + begin, window.inputs.begin() + end);
  cut.targets.assign(window.targets.begin() + begin, window.targets.begin() + end);
  cut.mask.assign(end - begin, 1);
  return cut;
}

Result<double> LearnMs(const MoeModel& model, std::span<const Sequence> windows, const StudySetting& setting) {
  constexpr size_t kContexts = 5;
  std::vector<double> times;
  for (size_t i = 0; i < std::min(kContexts, windows.size()); ++i) {
    Sequence context = windows[i];
    context.inputs.resize(setting.context);
    context.targets.resize(setting.context);
    context.mask.assign(setting.context, 1);
    const std::vector<uint32_t> members{0};
    const Batch batch = MakeBatch(std::span(&context, 1), members);
    const auto started = std::chrono::steady_clock::now();
    POINTSMAN_CHECK_OK(Reroute(model, batch, {}, {}, setting.rerouting));
    times.push_back(1000 * SecondsSince(started));
  }
  std::sort(times.begin(), times.end());
  return times.empty() ? 0 : times[times.size() / 2];
}

StudySetting Setting(std::string group, std::string label, const ReroutingOptions& rerouting) {
  StudySetting setting;
  setting.group = std::move(group);
  setting.label = std::move(label);
  setting.rerouting = rerouting;
  return setting;
}

// The paper's recipe as far as it is known, and a bolder one.
void AddAdam(const ReroutingOptions& base, std::vector<StudySetting>& grid) {
  for (const auto& [steps, rate] :
       std::vector<std::pair<int, double>>{{1, .05}, {5, .02}, {5, .05}, {5, .1}, {10, .1}}) {
    ReroutingOptions adam = base;
    adam.rule = ReroutingRule::kAdam;
    adam.steps = steps;
    adam.rate = rate;
    grid.push_back(Setting("adam", fmt::format("{} x {:g}", steps, rate), adam));
  }
}

// The other rules at several rates: what the mean gain costs on the worst window.
void AddEvidence(const ReroutingOptions& base, std::vector<StudySetting>& grid) {
  for (const double rate : {.015, .03, .06, .1}) {
    grid.push_back(Setting("evidence", fmt::format("{:g}", rate), base));
    grid.back().rerouting.rule = ReroutingRule::kEvidence;
    grid.back().rerouting.rate = rate;
  }
}

// Many steps that end once one lowers the context's loss by less than the label says.
void AddStops(const ReroutingOptions& base, std::vector<StudySetting>& grid) {
  ReroutingOptions paper = base;
  paper.rule = ReroutingRule::kAdam;
  paper.rate = .05;
  for (const auto& [name, rule] : {std::pair{"", base}, {"adam ", paper}}) {
    for (const double below : {-1.0, 0.0, .003, .01, .03}) {
      grid.push_back(
          Setting("stop", fmt::format("{}10, {}", name, below < 0 ? "off" : fmt::format("{:g}", below)), rule));
      grid.back().rerouting.steps = 10;
      grid.back().rerouting.stop_early = below >= 0;
      grid.back().rerouting.stop_below = std::max(0.0, below);
    }
  }
}

void AddLayers(const ReroutingOptions& base, std::vector<StudySetting>& grid) {
  ReroutingOptions layers = base;
  layers.soft = false;
  layers.layers = ReroutedLayers::kAll;
  grid.push_back(Setting("layers", "all", layers));
  const std::pair<ReroutedLayers, const char*> choices[] = {{ReroutedLayers::kLast, "last"},
                                                            {ReroutedLayers::kMostConfident, "most"},
                                                            {ReroutedLayers::kLeastConfident, "least"}};
  for (const auto& [which, name] : choices) {
    for (const int count : {1, 2, 3, 4}) {
      if (which != ReroutedLayers::kLast && count % 2 == 1) continue;
      layers.layers = which;
      layers.layer_count = count;
      grid.push_back(Setting("layers", fmt::format("{}:{}", name, count), layers));
    }
  }
  layers.soft = true;
  layers.layers = ReroutedLayers::kMostConfident;
  grid.push_back(Setting("layers", "soft-most", layers));
  layers.layers = ReroutedLayers::kLeastConfident;
  grid.push_back(Setting("layers", "soft-least", layers));
}

}  // namespace

std::vector<Sequence> StudyWindows(const StudyText& text, uint32_t context) {
  std::vector<Sequence> windows;
  for (const Sequence& window : text.windows) windows.push_back(WithContext(window, context));
  return AfterContext(windows, context);
}

std::vector<double> MeansOf(std::span<const SequenceScore> scores, std::span<const Sequence> windows) {
  std::vector<double> means;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double tokens = std::accumulate(windows[i].mask.begin(), windows[i].mask.end(), 0.0);
    means.push_back(std::accumulate(scores[i].nll.begin(), scores[i].nll.end(), 0.0) / tokens);
  }
  return means;
}

StudyCell CompareWindows(std::span<const double> means, std::span<const double> frozen) {
  StudyCell cell;
  if (means.empty()) return cell;
  cell.windows = means.size();
  cell.worst = -INFINITY;
  double squares = 0;
  const auto count = static_cast<double>(means.size());
  for (size_t i = 0; i < means.size(); ++i) {
    const double change = means[i] - frozen[i];
    cell.gain += change / count;
    squares += change * change / count;
    cell.worst = std::max(cell.worst, change);
    cell.worse += change > 0;
  }
  const double variance = std::max(0.0, squares - cell.gain * cell.gain);
  cell.standard_error = std::sqrt(variance / std::max(1.0, count - 1));
  return cell;
}

std::vector<StudySetting> StudyGrid(const ReroutingOptions& base) {
  std::vector<StudySetting> grid{Setting("default", "default", base)};
  for (const int steps : {1, 2, 3, 5, 10}) {
    grid.push_back(Setting("steps", std::to_string(steps), base));
    grid.back().rerouting.steps = steps;
  }
  for (const double rate : {.015, .02, .03, .045, .06}) {
    grid.push_back(Setting("rate", fmt::format("{:g}", rate), base));
    grid.back().rerouting.rate = rate;
  }
  AddEvidence(base, grid);
  AddAdam(base, grid);
  AddStops(base, grid);
  AddLayers(base, grid);
  for (const double margin : {-1.0, 0.0, 0.01, 0.03}) {
    grid.push_back(Setting("guard", margin < 0 ? "off" : fmt::format("{:g}", margin), base));
    grid.back().rerouting.guard = margin >= 0;
    grid.back().rerouting.guard_margin = std::max(0.0, margin);
  }
  for (const uint32_t context : {16u, 32u, 64u, 96u, 128u}) {
    grid.push_back(Setting("context", std::to_string(context), base));
    grid.back().context = context;
  }
  for (const bool recompute : {false, true}) {
    for (const uint32_t interval : {16u, 32u, 64u, 128u}) {
      if (recompute && interval == kStudyScored) continue;  // the same as keep
      grid.push_back(Setting("interval", fmt::format("{} {}", interval, recompute ? "recompute" : "keep"), base));
      grid.back().interval = interval;
      grid.back().recompute = recompute;
    }
  }
  return grid;
}

Result<StudyText> LoadStudyText(const MoeModel& model, const CorpusOptions& options, const std::string& name,
                                const std::vector<std::string>& paths, uint32_t windows,
                                std::span<const Document> known) {
  constexpr uint32_t kWindowsPerDocument = 2, kFewest = kStudyContext + kStudyFewest;
  if (model.config().max_positions < kFewest) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("the study's windows have {} tokens and the model's context {} (max_position_embeddings)",
                             kFewest, model.config().max_positions)};
  }
  SplitBudgets budgets;
  budgets.max_tokens_per_document = kWindowsPerDocument * static_cast<uint32_t>(model.config().max_positions);
  budgets.test_tokens = uint64_t{2} * budgets.max_tokens_per_document * windows;
  POINTSMAN_TRY(const Corpus corpus,
                PrepareTestCorpus(model.tokenizer(), IngestOf(options, paths), budgets, options.seed, known));
  StudyText text{name, {}};
  for (Sequence& s : MakeSequences(corpus.documents, SplitRole::kTest, SequenceOptionsOf(model.config()))) {
    if (s.inputs.size() < kFewest || text.windows.size() >= windows) continue;
    text.windows.push_back(std::move(s));
  }
  if (text.windows.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--text {}: no document has {} tokens; give longer ones", name, kFewest)};
  }
  return text;
}

Result<StudyReport> RunReroutingStudy(const MoeModel& model, std::span<const StudyText> texts,
                                      std::span<const StudySetting> settings, int threads,
                                      const std::function<void(const StudyRow&)>& on_row) {
  StudyReport report;
  for (const StudyText& text : texts) {
    report.texts.push_back(text.name);
    report.windows.push_back(text.windows.size());
    report.tokens.push_back(CountTargets(StudyWindows(text, kStudyContext)));
  }
  std::map<std::pair<size_t, uint32_t>, std::vector<double>> frozen;  // by text and context
  for (const StudySetting& setting : settings) {
    StudyRow row{setting, {}, 0};
    ReroutedScoring scoring;
    scoring.rerouting = setting.rerouting;
    scoring.context = setting.context;
    scoring.interval = setting.interval;
    scoring.recompute = setting.recompute;
    scoring.threads = threads;
    for (size_t t = 0; t < texts.size(); ++t) {
      const std::vector<Sequence> windows = StudyWindows(texts[t], setting.context);
      std::vector<double>& baseline = frozen[{t, setting.context}];
      if (baseline.empty()) {
        ReroutedScoring plain = scoring;
        plain.rerouting.steps = 0;
        plain.interval = kStudyScored;
        POINTSMAN_TRY(const auto scores, ScoreRerouted(model, windows, plain));
        baseline = MeansOf(scores, windows);
      }
      POINTSMAN_TRY(const auto scores, ScoreRerouted(model, windows, scoring));
      row.cells.push_back(CompareWindows(MeansOf(scores, windows), baseline));
      if (t == 0) {
        POINTSMAN_TRY(row.learn_ms, LearnMs(model, windows, setting));
      }
    }
    if (on_row) on_row(row);
    report.rows.push_back(std::move(row));
  }
  return report;
}

}  // namespace pointsman
