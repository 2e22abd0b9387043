// What build, eval, probe and plan share: a loaded model, options turned into ingest and split settings, stage times.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapt/hosted_model.h"
#include "indexer/builder.h"
#include "indexer/corpus.h"
#include "indexer/progress.h"
#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

// Loads the model and sets LibTorch to one thread (the jobs bring their own). kInvalidArgument without an
// end-of-text token.
Result<std::unique_ptr<MoeModel>> LoadModel(const CorpusOptions& options);
// The same, of a job that has --capture: a model that our runtime does not have is an error that names it.
Result<std::unique_ptr<MoeModel>> LoadModelOrNameCapture(const CorpusOptions& options);
// The same, computed by transformers in a child process.
Result<std::unique_ptr<HostedModel>> LoadHostedModel(const CorpusOptions& options, const HostOptions& host);

// One of `corpus` and `groups`, else kInvalidArgument.
Status CheckCorpus(const CorpusOptions& options);
IngestOptions IngestOf(const CorpusOptions& options, const std::vector<std::string>& paths);
SplitOptions SplitOf(const CorpusOptions& options);
// The corpus of `options`, ingested, split and tokenised, with its summary on stderr.
Result<Corpus> LoadCorpus(const LossModel& model, const CorpusOptions& options);
// Unrelated text: options.off_domain, or what FindGeneralText finds; the paths used are returned in `sources`.
Result<Corpus> LoadGeneralText(const LossModel& model, const CorpusOptions& options, std::vector<std::string>* sources);

// How the stages of a job show their progress.
ProgressOptions ProgressOf(const CorpusOptions& options);
// Prints one plain line to stderr unless quiet.
void Say(const CorpusOptions& options, const std::string& line);

// Times named stages, and announces them to programs; each Start ends the one before.
class StageClock {
 public:
  explicit StageClock(ProgressOptions progress) : progress_(std::move(progress)) {}
  void Start(const std::string& stage);
  std::vector<StageTime> Finish();

 private:
  const ProgressOptions progress_;
  std::vector<StageTime> stages_;
  std::chrono::steady_clock::time_point started_;
};

}  // namespace pointsman
