// pointsman docs remove: deletes documents from a memory, their bytes and their entries, in one call.
#include <fmt/format.h>

#include <array>
#include <ctime>
#include <set>

#include "indexer/progress.h"
#include "memory/deletion.h"
#include "memory/document_id.h"
#include "memory/memory.h"
#include "memory/snapshot.h"
#include "tools/command.h"
#include "tools/document_text.h"

namespace pointsman {
namespace {

constexpr std::array kSelectors = {"document", "source", "tag", "expired"};

using Names = std::set<std::string>;

Names NamesOf(const Settings& settings, std::string_view option) {
  const std::vector<std::string> values = settings.Texts(option);
  return {values.begin(), values.end()};
}

Status CheckSelector(const Settings& settings) {
  size_t given = 0;
  for (const char* name : kSelectors) {
    given += std::string_view(name) == "expired" ? settings.Flag(name) : settings.Has(name);
  }
  if (given == 1) return {};
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("docs remove: {}; say which documents by one of --document, --source, --tag and --expired",
                           given == 0 ? "no document is named" : "several ways of naming documents at once")};
}

// 16 hex digits, as `docs list` prints them.
Status CheckHash(const std::string& text) {
  if (ReadDocumentId(text)) return {};
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("--document {}: must be 16 hex digits, as pointsman docs list prints them", text)};
}

// The documents that the options name. A name that is of no document is an error, so that a slip is noticed; nothing
// expired is not.
Result<std::vector<Document>> Selected(EntryStore& store, const Settings& settings) {
  const Names documents = NamesOf(settings, "document"), sources = NamesOf(settings, "source"),
              tags = NamesOf(settings, "tag");
  for (const std::string& text : documents) POINTSMAN_CHECK_OK(CheckHash(text));
  Names missing;
  for (const auto* names : {&documents, &sources, &tags}) missing.insert(names->begin(), names->end());
  std::set<uint64_t> expired;
  if (settings.Flag("expired")) {
    POINTSMAN_TRY(const std::vector<uint64_t> hashes, ExpiredDocuments(store, std::time(nullptr)));
    expired.insert(hashes.begin(), hashes.end());
  }

  std::vector<Document> selected;
  POINTSMAN_CHECK_OK(store.ForEachDocument([&](const Document& document) -> Status {
    bool chosen = expired.contains(document.hash);
    const auto choose = [&](const Names& names, const std::string& name) {
      if (!names.contains(name)) return;
      missing.erase(name);
      chosen = true;
    };
    choose(documents, DocumentIdText(document.hash));
    choose(sources, document.source);
    for (const std::string& tag : document.tags) choose(tags, tag);
    if (chosen) selected.push_back(document);
    return {};
  }));
  // A document that an interrupted deletion already took from truth may be named again.
  POINTSMAN_TRY(const std::vector<uint64_t> pending, PendingDeletions(store));
  for (const uint64_t hash : pending) missing.erase(DocumentIdText(hash));
  if (!missing.empty()) {
    return Error{ErrorCode::kNotFound, fmt::format("{}: no document has this {}; pointsman docs list names them, "
                                                   "nothing was removed",
                                                   fmt::join(missing, ", "),
                                                   !documents.empty() ? "hash"
                                                   : !sources.empty() ? "source"
                                                                      : "tag")};
  }
  return selected;
}

// Snapshots that a deletion did not reach: [{"document", "snapshot", "problem"}], `problem` null where the document is
// known to be in it.
Result<nlohmann::json> Holding(const Settings& settings, const std::vector<Document>& documents) {
  nlohmann::json list = nlohmann::json::array();
  if (!settings.Has("snapshots")) return list;
  for (const Document& document : documents) {
    POINTSMAN_TRY(const auto held, SnapshotsHolding(settings.Path("snapshots"), document.hash));
    for (const SnapshotHolding& snapshot : held) {
      list.push_back({{"document", DocumentIdText(document.hash)},
                      {"snapshot", snapshot.name},
                      {"problem", snapshot.problem.empty() ? nlohmann::json() : nlohmann::json(snapshot.problem)}});
    }
  }
  return list;
}

std::string Text(const DeletionReport& report, const std::vector<Document>& documents, bool prototypes) {
  std::string text;
  for (const Document& document : documents) {
    text += fmt::format("{}  {}\n", DocumentIdText(document.hash), document.source);
  }
  text += fmt::format("removed {} documents: {} {} and {} pairs of the gate, published as generation {}\n",
                      FormatCount(report.documents), FormatCount(report.rows), prototypes ? "prototypes" : "entries",
                      FormatCount(report.pairs), report.generation);
  if (!report.pairs_known) {
    text += "the memory keeps no text: the gate keeps the documents' token pairs until the memory is built again\n";
  }
  text +=
      "bytes are gone, not influence: what trained values learned from the documents stays until the memory is "
      "built again; the verdict is stale: run pointsman eval\n";
  return text;
}

}  // namespace

Result<Output> RunDocsRemove(const Settings& settings) {
  POINTSMAN_CHECK_OK(CheckSelector(settings));
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(settings.Path("memory"), {}));
  POINTSMAN_TRY(const Manifest before, writer->manifest());
  POINTSMAN_TRY(const std::vector<Document> documents, Selected(writer->store(), settings));
  POINTSMAN_TRY(const std::vector<uint64_t> pending, PendingDeletions(writer->store()));
  Output output{.json = {{"documents", nlohmann::json::array()}}, .text = {}, .exit_code = 0};
  std::vector<uint64_t> hashes;
  for (const Document& document : documents) {
    output.json["documents"].push_back(DocumentJson(document));
    hashes.push_back(document.hash);
  }
  DeletionReport report;
  report.generation = before.generation;
  const bool dry = settings.Flag("dry-run");
  if (!dry) {
    POINTSMAN_TRY(report, DeleteDocuments(*writer, hashes));
  }
  POINTSMAN_TRY(nlohmann::json holding, Holding(settings, documents));
  output.json.update({{"removed", report.documents},
                      {"dry_run", dry},
                      {"generation", report.generation},
                      {"rows", report.rows},
                      {"output_rows", report.output_rows},
                      {"references", report.references},
                      {"pairs", report.pairs},
                      {"pairs_known", report.pairs_known},
                      {"snapshots", holding}});
  if (dry) {
    for (const Document& document : documents) {
      output.text += fmt::format("{}  {}\n", DocumentIdText(document.hash), document.source);
    }
    output.text += fmt::format("would remove {} documents; nothing was changed\n", FormatCount(documents.size()));
  } else if (documents.empty() && pending.empty()) {
    output.text = "no document has expired: nothing to do\n";
  } else {
    output.text = Text(report, documents, before.kind == MemoryKind::kPrototypes);
  }
  for (const nlohmann::json& held : holding) {
    output.text += fmt::format(
        "snapshot {} {} {}: delete it as well, or let nobody restore it\n", held["snapshot"].get<std::string>(),
        held["problem"].is_null() ? "still holds" : "cannot be read and may hold", held["document"].get<std::string>());
  }
  return output;
}

}  // namespace pointsman
