#include "memory/deletion.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "memory/gate_groups.h"
#include "memory/record.h"
#include "memory/without_documents.h"

namespace pointsman {
namespace {

constexpr const char* kPendingKey = "deletion/pending";  // the documents' 8-byte keys, one after the other

using Hashes = std::set<uint64_t>;

// Truth as it will be: what the manifest counts, and what tells the gate's pairs apart.
struct Survey {
  std::vector<std::string> gone_names;  // of reference documents
  std::vector<std::string> gone_test_sha256;
  GatePairs pairs;
  uint64_t reference_documents = 0, reference_tokens = 0, calibration_documents = 0, test_documents = 0;
};

// The pairs of a document that is of no group count in all of them: none keeps what nobody else has.
void AddPairs(const Document& document, std::span<const std::string> groups, std::vector<DocumentPairs>& to) {
  const std::optional<size_t> own = GroupOfTags(document.tags, groups);
  for (size_t group = 0; group < groups.size(); ++group) {
    if (!own || *own == group) to[group].Add(document.tokens);
  }
}

Result<Survey> SurveyTruth(EntryStore& store, const Hashes& wanted, std::span<const std::string> groups) {
  Survey survey;
  survey.pairs.remaining.resize(groups.size());
  survey.pairs.gone.resize(groups.size());
  POINTSMAN_CHECK_OK(store.ForEachDocument([&](const Document& document) -> Status {
    const bool goes = wanted.contains(document.hash);
    if (document.role == SplitRole::kReference) {
      AddPairs(document, groups, goes ? survey.pairs.gone : survey.pairs.remaining);
      if (goes) survey.gone_names.push_back(document.source);
    }
    if (goes) {
      if (document.role == SplitRole::kTest) survey.gone_test_sha256.push_back(document.sha256);
      return {};
    }
    survey.reference_documents += document.role == SplitRole::kReference;
    survey.calibration_documents += document.role == SplitRole::kCalibration;
    survey.test_documents += document.role == SplitRole::kTest;
    if (document.role == SplitRole::kReference) survey.reference_tokens += document.tokens.size();
    return {};
  }));
  for (DocumentPairs& pairs : survey.pairs.gone) pairs.Finish();
  for (DocumentPairs& pairs : survey.pairs.remaining) pairs.Finish();
  return survey;
}

Result<uint64_t> CountEntriesWithout(EntryStore& store, const RoutingTables& tables, const Hashes& wanted) {
  uint64_t count = 0;
  for (const LayerView& layer : tables.layers) {
    POINTSMAN_CHECK_OK(store.ForEachEntry(layer.layer, [&](const StoredEntry& entry) -> Status {
      count += !wanted.contains(entry.id.document);
      return {};
    }));
  }
  return count;
}

Status CheckNamesDocuments(const RoutingTables& tables) {
  for (const LayerView& layer : tables.layers) {
    if (layer.keys.rows == 0 || !layer.references.empty()) continue;
    return Error{ErrorCode::kUnsupported,
                 fmt::format("layer {}: its rows do not say which documents they come from; build the memory again "
                             "without the document",
                             layer.layer)};
  }
  return {};
}

// Step 2. Everything is computed from truth and from the published tables, never subtracted from what an earlier try
// wrote: doing it twice is doing it once.
Status PublishWithout(MemoryWriter& writer, const Hashes& wanted, DeletionReport& report) {
  POINTSMAN_TRY(Manifest manifest, writer.manifest());
  POINTSMAN_TRY(const RoutingTables published, writer.PublishedTables());
  POINTSMAN_TRY(const Survey survey, SurveyTruth(writer.store(), wanted, GroupNames(published.gate.groups)));
  if (!survey.gone_names.empty()) POINTSMAN_CHECK_OK(CheckNamesDocuments(published));
  const bool known = manifest.has_text;
  Removal removal = WithoutDocuments(published, survey.gone_names, known ? &survey.pairs : nullptr);
  report.rows = removal.rows;
  report.output_rows = removal.output_rows;
  report.references = removal.references;
  report.pairs = removal.pairs;
  report.pairs_known = known || survey.gone_names.empty();

  manifest.reference_documents = survey.reference_documents;
  manifest.calibration_documents = survey.calibration_documents;
  manifest.test_documents = survey.test_documents;
  if (known) {
    manifest.reference_tokens = survey.reference_tokens;
  } else if (published.kind == MemoryKind::kEntries && !published.layers.empty()) {  // one entry a token and layer
    manifest.reference_tokens -= std::min(manifest.reference_tokens, removal.rows / published.layers.size());
  }
  if (manifest.entries > 0) {
    POINTSMAN_TRY(manifest.entries, CountEntriesWithout(writer.store(), published, wanted));
  }
  for (const std::string& sha256 : survey.gone_test_sha256) std::erase(manifest.test_sha256, sha256);
  manifest.verdict.stale = true;
  return writer.Publish(*MakeTables(std::move(removal.tables)), std::move(manifest));
}

// Step 3.
Status DeleteFromTruth(EntryStore& store, const Hashes& wanted, DeletionReport& report) {
  for (const uint64_t hash : wanted) {
    const Status deleted = store.DeleteDocument(hash);
    if (!deleted.ok() && deleted.error().code != ErrorCode::kNotFound) return deleted;
    report.documents += deleted.ok();
  }
  return store.Sync();
}

}  // namespace

Result<DeletionReport> DeleteDocuments(MemoryWriter& writer, std::span<const uint64_t> hashes) {
  EntryStore& store = writer.store();
  POINTSMAN_TRY(const std::vector<uint64_t> pending, PendingDeletions(store));
  Hashes wanted(pending.begin(), pending.end());
  for (const uint64_t hash : hashes) {
    if (!wanted.contains(hash)) {
      if (auto document = store.GetDocument(hash); !document.ok()) return document.error();
    }
    wanted.insert(hash);
  }
  POINTSMAN_TRY(const Manifest manifest, writer.manifest());
  DeletionReport report;
  report.generation = manifest.generation;
  if (wanted.empty()) return report;

  std::string note;
  for (const uint64_t hash : wanted) note += DocumentKey(hash);
  POINTSMAN_CHECK_OK(store.PutSetting(kPendingKey, note));
  POINTSMAN_CHECK_OK(store.Sync());
  POINTSMAN_CHECK_OK(PublishWithout(writer, wanted, report));
  POINTSMAN_CHECK_OK(DeleteFromTruth(store, wanted, report));
  POINTSMAN_CHECK_OK(writer.Purge());
  POINTSMAN_CHECK_OK(store.DeleteSetting(kPendingKey));
  POINTSMAN_CHECK_OK(store.Sync());
  POINTSMAN_TRY(const Manifest now, writer.manifest());
  report.generation = now.generation;
  return report;
}

Result<std::vector<uint64_t>> PendingDeletions(EntryStore& store) {
  std::vector<uint64_t> hashes;
  const auto note = store.GetSetting(kPendingKey);
  if (!note.ok() && note.error().code == ErrorCode::kNotFound) return hashes;
  if (!note.ok()) return note.error();
  constexpr size_t kKeyBytes = sizeof(uint64_t);
  for (size_t begin = 0; begin < note.value().size(); begin += kKeyBytes) {
    const std::optional<uint64_t> hash = DecodeDocumentKey(std::string_view(note.value()).substr(begin, kKeyBytes));
    if (!hash) {
      return Error{ErrorCode::kCorrupt, fmt::format("truth: setting {} is damaged; restore the memory from a snapshot "
                                                    "or build it again",
                                                    kPendingKey)};
    }
    hashes.push_back(*hash);
  }
  std::sort(hashes.begin(), hashes.end());
  return hashes;
}

Result<std::vector<uint64_t>> ExpiredDocuments(EntryStore& store, int64_t now_unix_s) {
  std::vector<uint64_t> hashes;
  POINTSMAN_CHECK_OK(store.ForEachDocument([&](const Document& document) -> Status {
    if (document.expires_unix_s != 0 && document.expires_unix_s <= now_unix_s) hashes.push_back(document.hash);
    return {};
  }));
  return hashes;
}

}  // namespace pointsman
