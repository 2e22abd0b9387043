#include "indexer/job.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "indexer/general_text.h"
#include "memory/stopwatch.h"

namespace pointsman {
namespace {

// A budget of tokens needs only a sample of a large corpus; near-duplicates matter within what is used.
constexpr uint64_t kMinSampledDocuments = 4000;
constexpr uint64_t kTokensPerSampledDocument = 25;

Status CheckEndOfText(const LossModel& model, const CorpusOptions& options) {
  if (!model.config().eos_token_ids.empty()) return {};
  return Error{ErrorCode::kInvalidArgument, options.model.string() +
                                                "/config.json: no eos_token_id; documents need "
                                                "an end-of-text token: add it to config.json"};
}

}  // namespace

Result<std::unique_ptr<MoeModel>> LoadModel(const CorpusOptions& options) {
  at::set_num_threads(1);
  AnnounceStage("load", ProgressOf(options));
  POINTSMAN_TRY(std::unique_ptr<MoeModel> model, MoeModel::Load(options.model));
  POINTSMAN_CHECK_OK(CheckEndOfText(*model, options));
  return model;
}

Result<std::unique_ptr<MoeModel>> LoadModelOrNameCapture(const CorpusOptions& options) {
  Result<std::unique_ptr<MoeModel>> model = LoadModel(options);
  if (model.ok() || model.error().code != ErrorCode::kUnsupported) return model;
  return Error{ErrorCode::kUnsupported,
               model.error().message + "; --capture transformers computes families that our runtime does not have"};
}

Result<std::unique_ptr<HostedModel>> LoadHostedModel(const CorpusOptions& options, const HostOptions& host) {
  at::set_num_threads(1);
  AnnounceStage("load", ProgressOf(options));
  POINTSMAN_TRY(std::unique_ptr<HostedModel> model, HostedModel::Start(options.model, host, options.threads));
  POINTSMAN_CHECK_OK(CheckEndOfText(*model, options));
  Say(options, fmt::format("{}: {} of {} MoE layers, {}, on {}", model->version(), model->config().model_type,
                           model->config().num_layers, host.dtype, host.device));
  return model;
}

Status CheckCorpus(const CorpusOptions& options) {
  if (options.corpus.empty() && options.groups.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--corpus: name at least one file or folder, or some --group NAME=PATH"};
  }
  if (options.groups.size() > kMostGateGroups) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--group: {} groups; a memory has {} at most", options.groups.size(), kMostGateGroups)};
  }
  if (!options.corpus.empty() && !options.groups.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "--corpus and --group: give one of them; a group may hold what --corpus has"};
  }
  return {};
}

IngestOptions IngestOf(const CorpusOptions& options, const std::vector<std::string>& paths) {
  IngestOptions ingest;
  ingest.paths = paths;
  ingest.jsonl_fields = options.jsonl_fields;
  ingest.seed = options.seed;
  ingest.max_documents = std::max(kMinSampledDocuments, options.max_tokens / kTokensPerSampledDocument);
  return ingest;
}

SplitOptions SplitOf(const CorpusOptions& options) {
  // Calibration text: a sixth of the reference text, at least 8,192 tokens of each group, whose ramp depends on its
  // own.
  constexpr uint64_t kCalibrationShare = 6, kLeastOfGroup = 8192;
  SplitOptions split;
  split.seed = options.seed;
  split.groups = static_cast<uint32_t>(std::max<size_t>(1, options.groups.size()));
  split.unit = options.split_by_library ? SplitUnit::kLibrary : SplitUnit::kCluster;
  split.budgets.reference_tokens = options.max_tokens;
  split.budgets.calibration_tokens = std::max(kLeastOfGroup * split.groups, options.max_tokens / kCalibrationShare);
  split.budgets.test_tokens = options.max_test_tokens;
  split.budgets.max_tokens_per_document = options.max_tokens_per_document;
  return split;
}

Result<Corpus> LoadCorpus(const LossModel& model, const CorpusOptions& options) {
  POINTSMAN_CHECK_OK(CheckCorpus(options));
  IngestOptions ingest = IngestOf(options, options.corpus);
  ingest.groups = options.groups;
  POINTSMAN_TRY(Corpus corpus, PrepareCorpus(model.tokenizer(), ingest, SplitOf(options)));
  Say(options, "corpus: " + corpus.report.Summary());
  const auto part = [&](SplitRole role) {
    return FormatCount(CountDocuments(corpus.documents, role)) + " documents, " +
           FormatCount(CountTokens(corpus.documents, role)) + " tokens";
  };
  Say(options, "split by " + std::string(options.split_by_library ? "library" : "near-duplicate cluster") + " (" +
                   FormatCount(corpus.clusters) + " clusters): reference " + part(SplitRole::kReference) +
                   "; calibration " + part(SplitRole::kCalibration) + "; test " + part(SplitRole::kTest));
  return corpus;
}

Result<Corpus> LoadGeneralText(const LossModel& model, const CorpusOptions& options,
                               std::vector<std::string>* sources) {
  *sources = options.off_domain.empty() ? FindGeneralText(FileSystem::Real()) : options.off_domain;
  if (sources->empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "unrelated text: none found on this machine; the gate and the damage "
                 "figure need some: name files or folders with --off-domain"};
  }
  CorpusOptions general = options;
  general.jsonl_fields.clear();
  POINTSMAN_TRY(Corpus corpus,
                PrepareGeneralText(model.tokenizer(), IngestOf(general, *sources), options.max_off_domain_tokens,
                                   options.max_tokens_per_document, options.seed));
  Say(options, "unrelated text: " + corpus.report.Summary());
  return corpus;
}

ProgressOptions ProgressOf(const CorpusOptions& options) { return {.quiet = options.quiet, .style = options.progress}; }

void Say(const CorpusOptions& options, const std::string& line) {
  if (!options.quiet) std::fprintf(stderr, "%s\n", line.c_str());
}

void StageClock::Start(const std::string& stage) {
  Finish();
  AnnounceStage(stage, progress_);
  stages_.push_back({stage, 0});
  started_ = std::chrono::steady_clock::now();
}

std::vector<StageTime> StageClock::Finish() {
  if (!stages_.empty()) stages_.back().seconds = SecondsSince(started_);
  return stages_;
}

}  // namespace pointsman
