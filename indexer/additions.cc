#include "indexer/additions.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "adapt/added_rows.h"
#include "adapt/capture.h"
#include "adapt/output_capture.h"
#include "adapt/tensors.h"
#include "adapt/token_values.h"
#include "adapt/trainer.h"
#include "indexer/calibrate.h"
#include "indexer/candidates.h"
#include "indexer/corpus.h"
#include "indexer/document_groups.h"
#include "indexer/job.h"
#include "indexer/progress.h"
#include "memory/copy_tables.h"
#include "memory/deletion.h"
#include "memory/gate_groups.h"
#include "memory/layer_index.h"
#include "memory/memory_paths.h"
#include "memory/stopwatch.h"
#include "router/context_gate.h"

namespace pointsman {
namespace {

constexpr size_t kEntriesPerWrite = 4096;

template <typename T>
void Append(std::vector<T>& to, const std::vector<T>& rows) {
  to.insert(to.end(), rows.begin(), rows.end());
}

class Addition {
 public:
  Addition(const AddOptions& options, const MoeModel& model, MemoryWriter& writer)
      : options_(options), model_(model), writer_(writer) {
    data_.model = options.model;
    data_.jsonl_fields = options.jsonl_fields;
    data_.threads = options.threads;
    data_.quiet = options.quiet;
    data_.progress = options.progress;
  }

  Result<AddReport> Run();

 private:
  Status Read();
  Status CheckModel() const;
  Status Train();
  void AppendRows();
  Status AppendOutput();
  void JoinGroup(Document& document, std::map<std::string, uint64_t>& joined) const;
  Status ExtendGate();
  Status WriteTruth();
  Status Publish();
  bool IsEntries() const { return published_->kind == MemoryKind::kEntries; }
  void Say(const std::string& line) const { pointsman::Say(data_, line); }

  const AddOptions& options_;
  const MoeModel& model_;
  MemoryWriter& writer_;
  CorpusOptions data_;
  Manifest manifest_;
  std::shared_ptr<const RoutingTables> published_;
  std::vector<std::string> groups_;  // of its gate
  std::vector<Sequence> sequences_;  // of the new documents
  std::vector<EntryRef> refs_;       // [N]
  std::vector<OwnedLayer> rows_;     // the new ones
  OwnedTables tables_;               // old and new
  AddReport report_;
};

Status Addition::CheckModel() const {
  POINTSMAN_TRY(const auto memory, Memory::Open(options_.memory, {}));
  POINTSMAN_TRY(const std::string warning, memory->CheckFingerprint(model_.fingerprint()));
  if (!warning.empty()) Say(warning);
  return {};
}

Status Addition::Read() {
  IngestOptions ingest;
  ingest.paths = options_.corpus;
  ingest.jsonl_fields = options_.jsonl_fields;
  POINTSMAN_TRY(NewDocuments read,
                ReadNewDocuments(model_.tokenizer(), ingest, writer_.store(), manifest_, published_->documents));
  report_.refused = std::move(read.refused);
  report_.notes = std::move(read.notes);
  if (read.documents.empty()) {
    const RefusedDocument& first = report_.refused.front();
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}: {}{}; nothing was added", first.source, first.reason,
                             report_.refused.size() > 1 ? fmt::format(" (and {} more)", report_.refused.size() - 1)
                                                        : std::string())};
  }
  if (!options_.name.empty() && read.documents.size() + report_.refused.size() > 1) {
    return Error{ErrorCode::kInvalidArgument, "--name: names one document, --corpus has several"};
  }
  const auto& known = published_->documents;
  if (!options_.name.empty() && std::find(known.begin(), known.end(), options_.name) != known.end()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--name {}: a document of this source is in the memory: remove "
                             "it first (docs remove --source)",
                             options_.name)};
  }
  const int64_t now = std::time(nullptr);
  std::map<std::string, uint64_t> joined;
  for (Document& document : read.documents) {
    if (!options_.name.empty()) document.source = options_.name;
    document.tags = options_.tags;
    document.added_unix_s = now;
    document.expires_unix_s = options_.ttl_s > 0 ? now + options_.ttl_s : 0;
    JoinGroup(document, joined);
    report_.tokens += document.tokens.size();
  }
  for (const auto& [group, count] : joined) {
    report_.notes.push_back(
        fmt::format("{} without a tag of a group joined {}, where most of the token pairs stand; --tag GROUP chooses",
                    count == 1 ? "1 document" : fmt::format("{} documents", count), group));
  }
  report_.documents = std::move(read.documents);
  sequences_ = MakeSequences(report_.documents, SplitRole::kReference, SequenceOptionsOf(model_.config()));
  const auto first = static_cast<uint32_t>(published_->documents.size());
  for (const Sequence& s : sequences_) {
    for (uint32_t t = 0; t < s.inputs.size(); ++t) refs_.push_back({first + s.document, s.position + t});
  }
  return {};
}

void Addition::JoinGroup(Document& document, std::map<std::string, uint64_t>& joined) const {
  const GateView& gate = published_->gate;
  if (GroupOfTags(document.tags, groups_)) return;
  std::vector<double> evidence(gate.groups.size()), sums(gate.groups.size(), 0.0);
  for (size_t i = 1; i < document.tokens.size(); ++i) {
    GateEvidence(gate, document.tokens[i - 1], document.tokens[i], evidence);
    for (size_t group = 0; group < sums.size(); ++group) sums[group] += evidence[group];
  }
  const auto nearest = std::ranges::max_element(sums) - sums.begin();
  document.tags.push_back(gate.groups[nearest].name);
  joined[document.tags.back()] += 1;
}

Status Addition::Train() {
  std::vector<uint32_t> groups;
  for (const Sequence& s : sequences_) groups.insert(groups.end(), s.inputs.size(), s.group);
  const std::vector<at::Tensor> hidden = CaptureHidden(model_, sequences_, {.threads = options_.threads});
  AddedRowsOptions added;
  added.seed = options_.seed;
  added.threads = options_.threads;
  // As dense as the build was: prototypes a reference token.
  const double density = static_cast<double>(published_->layers.front().keys.rows) /
                         static_cast<double>(std::max<uint64_t>(1, manifest_.reference_tokens));
  added.prototypes = static_cast<uint32_t>(std::max(1.0, std::round(density * static_cast<double>(refs_.size()))));
  POINTSMAN_TRY(const std::unique_ptr<AddedRows> rows, AddedRows::Create(published_, hidden, groups, added));
  const bool knn = PresetOf(manifest_) == "knn";
  const bool alone = IsEntries() && (knn || std::set<uint32_t>(groups.begin(), groups.end()).size() < 2);
  const int epochs = alone ? 1 : AddedEpochs(manifest_, sequences_.size());
  Progress progress("train", static_cast<uint64_t>(epochs) * CountTargets(sequences_), "tokens", ProgressOf(data_));
  const auto on_progress = [&](uint64_t tokens) { progress.Advance(tokens); };
  if (alone) {
    TokenValueOptions values;  // no other new document to learn from: each token's own loss
    values.threads = options_.threads;
    values.score_after = false;
    values.on_progress = on_progress;
    rows->SetEntryValues(OptimizeTokenValues(model_, sequences_, values).values);
  } else {
    TrainOptions train;
    train.epochs = epochs;
    train.noise = 1;  // as in a build (docs/decisions/005-training.md)
    train.seed = options_.seed;
    train.threads = options_.threads;
    train.on_progress = on_progress;
    train.on_epoch = [&](const EpochReport& e) {
      if (e.epoch == 0) return;
      Say(fmt::format("epoch {}: {:.4f} nats on the new documents, {:.0f} s", e.epoch, e.train_nll, e.seconds));
      progress.NoteLoss(e.train_nll);
    };
    pointsman::Train(model_, *rows, sequences_, {}, train);
  }
  rows_ = rows->Export(refs_);
  return {};
}

void Addition::AppendRows() {
  tables_ = CopyTables(*published_);
  for (const Document& document : report_.documents) tables_.documents.push_back(document.source);
  for (size_t i = 0; i < rows_.size(); ++i) {
    OwnedLayer& to = tables_.layers[i];
    const OwnedLayer& from = rows_[i];
    Append(to.keys.codes, from.keys.codes);
    Append(to.keys.code_scales, from.keys.code_scales);
    Append(to.values, from.values);
    Append(to.value_scales, from.value_scales);
    Append(to.references, from.references);
    report_.rows += from.value_scales.size();
  }
}

// As MakeOutput: the last hidden states while the memory, new rows included, routes without its gate.
Status Addition::AppendOutput() {
  if (!tables_.output.enabled) return {};
  OwnedTables ungated = tables_;
  ungated.gate = {};
  ungated.output = {};
  POINTSMAN_TRY(const OutputCapture capture, CaptureOutput(model_, sequences_, MakeTables(std::move(ungated)),
                                                           {.threads = options_.threads, .on_progress = {}}));
  const KeyIndexView view = ViewOf(tables_.output.keys);
  at::Tensor keys = at::empty({capture.hidden.size(0), view.dim}, at::kFloat);
  TransformQueries(view, SpanOf(capture.hidden), std::span(keys.data_ptr<float>(), static_cast<size_t>(keys.numel())));
  OwnedKeyIndex all;
  all.dim = view.dim;
  all.SetKeys(VectorOf(keys));
  OwnedOutput& output = tables_.output;
  const bool names_rows = !output.references.empty();
  size_t row = 0;
  for (const Sequence& s : sequences_) {
    for (size_t t = 0; t < s.inputs.size(); ++t, ++row) {
      if (s.mask[t] == 0) continue;
      const auto code = all.codes.begin() + static_cast<ptrdiff_t>(row * view.dim);
      output.keys.codes.insert(output.keys.codes.end(), code, code + static_cast<ptrdiff_t>(view.dim));
      output.keys.code_scales.push_back(all.code_scales[row]);
      output.next_tokens.push_back(s.targets[t]);
      if (names_rows) output.references.push_back(refs_[row]);
      report_.output_rows += 1;
    }
  }
  return {};
}

// The new documents' token pairs; which of them unrelated text has, too, is known if that text is.
Status Addition::ExtendGate() {
  OwnedGate& gate = tables_.gate;
  if (!gate.enabled) return {};
  std::vector<Sequence> unrelated;
  CorpusOptions general = data_;
  general.off_domain = options_.off_domain.empty() ? manifest_.off_domain_sources : options_.off_domain;
  general.seed = manifest_.seed;
  general.max_off_domain_tokens = SettingOf(manifest_, "max-off-domain-tokens", general.max_off_domain_tokens);
  general.max_tokens_per_document =
      static_cast<uint32_t>(SettingOf(manifest_, "max-tokens-per-document", general.max_tokens_per_document));
  std::vector<std::string> sources;
  bool known = false;
  if (!general.off_domain.empty()) {
    const Result<Corpus> text = LoadGeneralText(model_, general, &sources);
    if (!text.ok() && (text.error().code != ErrorCode::kNotFound || !options_.off_domain.empty())) return text.error();
    known = text.ok();
    if (known) {
      unrelated = MakeSequences(text.value().documents, SplitRole::kReference, SequenceOptionsOf(model_.config()));
    }
  }
  if (!known) {
    report_.notes.emplace_back(
        "the unrelated text of the build is not there: the gate counts the new token pairs as common ones; "
        "--off-domain "
        "names other text");
  }
  POINTSMAN_TRY(const DocumentGroups groups, GroupsOf(report_.documents, groups_));
  POINTSMAN_TRY(const OwnedGate fresh, MakeGate(sequences_, unrelated, groups, {}));
  struct Marks {
    uint8_t is_common = 0;
    uint16_t groups = 0;
  };
  const auto mark_of = [](const OwnedGate& of, size_t i) {
    return of.pair_groups.empty() ? uint16_t{1} : of.pair_groups[i];
  };
  std::map<uint64_t, Marks> pairs;
  for (size_t i = 0; i < gate.pairs.size(); ++i) pairs[gate.pairs[i]] = {gate.is_common[i], mark_of(gate, i)};
  for (size_t i = 0; i < fresh.pairs.size(); ++i) {
    // What the build measured stays.
    Marks& marks = pairs.try_emplace(fresh.pairs[i], Marks{known ? fresh.is_common[i] : uint8_t{1}, 0}).first->second;
    const auto joined = static_cast<uint16_t>(marks.groups | mark_of(fresh, i));
    report_.pairs += joined != marks.groups;
    marks.groups = joined;
  }
  gate.pairs.clear();
  gate.is_common.clear();
  gate.pair_groups.clear();
  for (const auto& [pair, marks] : pairs) {
    gate.pairs.push_back(pair);
    gate.is_common.push_back(marks.is_common);
    if (groups_.size() > 1) gate.pair_groups.push_back(marks.groups);
  }
  return {};
}

Status Addition::WriteTruth() {
  EntryStore& store = writer_.store();
  for (Document document : report_.documents) {
    if (!manifest_.has_text) {
      document.tokens.clear();
      document.loss_mask.clear();
    }
    POINTSMAN_CHECK_OK(store.PutDocument(document));
  }
  if (!IsEntries()) return store.Sync();
  std::vector<StoredEntry> batch;
  const auto first = static_cast<uint32_t>(published_->documents.size());
  for (const OwnedLayer& layer : rows_) {
    const size_t dim = layer.keys.dim, experts = layer.experts;
    for (size_t row = 0; row < refs_.size(); ++row) {
      const auto code = layer.keys.codes.begin() + static_cast<ptrdiff_t>(row * dim);
      const auto value = layer.values.begin() + static_cast<ptrdiff_t>(row * experts);
      batch.push_back({.layer = layer.layer,
                       .id = {report_.documents[refs_[row].document - first].hash, refs_[row].position},
                       .code = {code, code + static_cast<ptrdiff_t>(dim)},
                       .code_scale = layer.keys.code_scales[row],
                       .value = {value, value + static_cast<ptrdiff_t>(experts)},
                       .value_scale = layer.value_scales[row]});
      if (batch.size() == kEntriesPerWrite) {
        POINTSMAN_CHECK_OK(store.PutEntries(batch));
        batch.clear();
      }
    }
  }
  if (!batch.empty()) POINTSMAN_CHECK_OK(store.PutEntries(batch));
  return store.Sync();
}

Status Addition::Publish() {
  manifest_.reference_documents += report_.documents.size();
  manifest_.reference_tokens += report_.tokens;
  if (IsEntries()) manifest_.entries += report_.rows;
  manifest_.settings[kAddedTokens] = std::to_string(SettingOf(manifest_, kAddedTokens, 0) + report_.tokens);
  manifest_.verdict.stale = true;
  POINTSMAN_CHECK_OK(writer_.Publish(*MakeTables(std::move(tables_)), manifest_));
  POINTSMAN_CHECK_OK(FileSystem::Real().Remove(KindsPath(options_.memory)));
  POINTSMAN_TRY(report_.manifest, writer_.manifest());
  return {};
}

Result<AddReport> Addition::Run() {
  if (auto finished = DeleteDocuments(writer_, {}); !finished.ok()) return finished.error();  // what was interrupted
  POINTSMAN_CHECK_OK(CheckModel());
  POINTSMAN_TRY(manifest_, writer_.manifest());
  POINTSMAN_TRY(RoutingTables tables, writer_.PublishedTables());
  published_ = std::make_shared<const RoutingTables>(std::move(tables));
  groups_ = GroupNames(published_->gate.groups);
  if (published_->layers.empty()) {
    return Error{ErrorCode::kUnsupported,
                 options_.memory.string() + ": nothing is left in this memory; build a new one"};
  }
  POINTSMAN_CHECK_OK(Read());
  Say(fmt::format("{} new documents, {} tokens; {} refused", report_.documents.size(), report_.tokens,
                  report_.refused.size()));
  const auto started = std::chrono::steady_clock::now();
  POINTSMAN_CHECK_OK(Train());
  report_.train_s = SecondsSince(started);
  AppendRows();
  POINTSMAN_CHECK_OK(AppendOutput());
  POINTSMAN_CHECK_OK(ExtendGate());
  POINTSMAN_CHECK_OK(WriteTruth());
  POINTSMAN_CHECK_OK(Publish());
  return std::move(report_);
}

}  // namespace

double AddedShare(const Manifest& manifest) {
  const auto added = static_cast<double>(SettingOf(manifest, kAddedTokens, 0));
  return manifest.reference_tokens == 0 ? 0 : std::min(1.0, added / static_cast<double>(manifest.reference_tokens));
}

int AddedEpochs(const Manifest& manifest, size_t sequences) {
  return std::max(kLeastEpochs, TrainingSizeOf(PresetOf(manifest), sequences).epochs);
}

Result<AddReport> AddDocuments(const AddOptions& options) {
  CorpusOptions data;
  data.model = options.model;
  POINTSMAN_TRY(const std::unique_ptr<MoeModel> model, LoadModel(data));
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(options.memory, {}));
  return Addition(options, *model, *writer).Run();
}

}  // namespace pointsman
