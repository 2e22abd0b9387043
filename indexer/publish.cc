#include "indexer/publish.h"

#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "memory/generation.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

constexpr const char* kKinds = "kinds";      // MEMORY/kinds/NAME: trained kinds that are not published
constexpr const char* kNote = "kinds.json";  // their build times
constexpr size_t kEntriesPerWrite = 4096;

// Documents that an earlier, interrupted build left and that this one does not have.
Status DropOtherDocuments(EntryStore& store, const Corpus& corpus) {
  std::set<uint64_t> wanted;
  for (const Document& d : corpus.documents) wanted.insert(d.hash);
  std::vector<uint64_t> others;
  POINTSMAN_CHECK_OK(store.ForEachDocument([&](const Document& d) -> Status {
    if (!wanted.contains(d.hash)) others.push_back(d.hash);
    return {};
  }));
  for (uint64_t hash : others) POINTSMAN_CHECK_OK(store.DeleteDocument(hash));
  return {};
}

Status WriteDocuments(EntryStore& store, const Corpus& corpus, bool no_text) {
  POINTSMAN_CHECK_OK(DropOtherDocuments(store, corpus));
  const int64_t now = std::time(nullptr);
  for (Document document : corpus.documents) {
    document.added_unix_s = now;
    if (no_text || document.role == SplitRole::kTest) {
      document.tokens.clear();
      document.loss_mask.clear();
    }
    POINTSMAN_CHECK_OK(store.PutDocument(document));
  }
  return {};
}

Status WriteEntries(EntryStore& store, const ReferenceSet& set, const OwnedTables& tables) {
  std::vector<StoredEntry> batch;
  for (const OwnedLayer& layer : tables.layers) {
    const size_t dim = layer.keys.dim, experts = layer.experts;
    for (size_t row = 0; row < set.refs.size(); ++row) {
      StoredEntry entry;
      entry.layer = layer.layer;
      entry.id = {set.hashes[set.refs[row].document], set.refs[row].position};
      entry.code.assign(layer.keys.codes.begin() + row * dim, layer.keys.codes.begin() + (row + 1) * dim);
      entry.code_scale = layer.keys.code_scales[row];
      entry.value.assign(layer.values.begin() + row * experts, layer.values.begin() + (row + 1) * experts);
      entry.value_scale = layer.value_scales[row];
      batch.push_back(std::move(entry));
      if (batch.size() == kEntriesPerWrite) {
        POINTSMAN_CHECK_OK(store.PutEntries(batch));
        batch.clear();
      }
    }
  }
  return batch.empty() ? Status() : store.PutEntries(batch);
}

std::string TransformHash(const OwnedTables& tables) {
  Sha256Stream hash;
  for (const OwnedLayer& layer : tables.layers) {
    hash.Update(std::as_bytes(std::span(layer.keys.mean)));
    hash.Update(std::as_bytes(std::span(layer.keys.projection)));
  }
  return hash.Hex();
}

// What only the build knows; Publish fills in kind, digest, generation and time.
Manifest MakeManifest(const PublishInputs& in, const Candidate& candidate, uint64_t entries) {
  const BuildOptions& options = in.options;
  Manifest manifest;
  manifest.fingerprint = in.fingerprint;
  manifest.transform_sha256 = TransformHash(candidate.tables);
  manifest.seed = options.data.seed;
  manifest.reference_documents = CountDocuments(in.corpus.documents, SplitRole::kReference);
  manifest.reference_tokens = CountTokens(in.corpus.documents, SplitRole::kReference);
  manifest.calibration_documents = CountDocuments(in.corpus.documents, SplitRole::kCalibration);
  manifest.test_documents = CountDocuments(in.corpus.documents, SplitRole::kTest);
  manifest.entries = entries;
  manifest.has_text = !options.no_text;
  manifest.off_domain_sources = in.general_sources;
  for (const Document& d : in.corpus.documents) {
    if (d.role == SplitRole::kTest) manifest.test_sha256.push_back(d.sha256);
  }
  for (const Document& d : in.general.documents) {
    if (d.role == SplitRole::kTest) manifest.damage_sha256.push_back(d.sha256);
  }
  manifest.settings = {{"kind", options.kind},
                       {"preset", options.preset},
                       {"blend", options.blend},
                       {"layers", options.layers},
                       {"index", "exact"},
                       {"output-memory", options.output_memory ? "on" : "off"},
                       {"max-tokens", std::to_string(options.data.max_tokens)},
                       {"max-test-tokens", std::to_string(options.data.max_test_tokens)},
                       {"max-off-domain-tokens", std::to_string(options.data.max_off_domain_tokens)},
                       {"max-tokens-per-document", std::to_string(options.data.max_tokens_per_document)},
                       {"split-by", options.data.split_by_library ? "library" : "cluster"},
                       {"min-gain", std::to_string(options.min_gain)},
                       {"damage-bound", std::to_string(options.damage_bound)},
                       {"inputs", in.inputs}};
  if (options.host) manifest.settings["capture"] = "transformers, " + options.host->dtype;
  return manifest;
}

Status KeepOtherKinds(const BuildOptions& options, const std::vector<Candidate>& candidates, size_t chosen) {
  FileSystem& files = FileSystem::Real();
  const std::filesystem::path directory = options.out / kKinds;
  POINTSMAN_CHECK_OK(files.Remove(directory));
  POINTSMAN_CHECK_OK(files.CreateDirectories(directory));
  nlohmann::json note = nlohmann::json::object();
  for (size_t i = 0; i < candidates.size(); ++i) {
    note[candidates[i].name] = candidates[i].build_s;
    if (i == chosen) continue;
    POINTSMAN_CHECK_OK(WriteGeneration(files, directory / candidates[i].name, *MakeTables(candidates[i].tables)));
  }
  return files.WriteAtomically(directory / kNote, note.dump(1));
}

}  // namespace

Status PublishMemory(MemoryWriter& writer, const PublishInputs& in, const std::vector<Candidate>& candidates,
                     size_t chosen) {
  EntryStore& store = writer.store();
  POINTSMAN_CHECK_OK(WriteDocuments(store, in.corpus, in.options.no_text));
  uint64_t entries = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.tables.kind != MemoryKind::kEntries) continue;
    POINTSMAN_CHECK_OK(WriteEntries(store, in.set, candidate.tables));
    entries = in.set.refs.size() * candidate.tables.layers.size();
  }
  POINTSMAN_CHECK_OK(store.Sync());
  POINTSMAN_CHECK_OK(KeepOtherKinds(in.options, candidates, chosen));
  const std::shared_ptr<const RoutingTables> tables = MakeTables(candidates[chosen].tables);
  return writer.Publish(*tables, MakeManifest(in, candidates[chosen], entries));
}

Result<KeptKinds> LoadKeptKinds(const std::filesystem::path& memory) {
  FileSystem& files = FileSystem::Real();
  KeptKinds kept;
  const Result<std::string> text = files.ReadFile(memory / kKinds / kNote);
  if (!text.ok()) return kept;  // a memory without kept kinds: they are trained again when asked for
  const nlohmann::json note = nlohmann::json::parse(text.value(), nullptr, /*allow_exceptions=*/false);
  if (!note.is_object()) {
    return Error{ErrorCode::kCorrupt, (memory / kKinds / kNote).string() + ": not a JSON object; remove the folder"};
  }
  for (const auto& [name, seconds] : note.items()) {
    if (seconds.is_number()) kept.build_s[name] = seconds.get<double>();
    if (!files.Exists(memory / kKinds / name)) continue;
    POINTSMAN_TRY(RoutingTables tables, MapGeneration(files, memory / kKinds / name, false, true));
    kept.tables[name] = std::make_shared<const RoutingTables>(std::move(tables));
  }
  return kept;
}

}  // namespace pointsman
