// pointsman docs add: new documents join a memory without a rebuild.
#include <fmt/format.h>

#include "indexer/additions.h"
#include "indexer/progress.h"
#include "memory/document_id.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/document_text.h"

namespace pointsman {
namespace {

AddOptions AddOptionsOf(const Settings& settings) {
  AddOptions options;
  options.model = settings.Path("model");
  options.memory = settings.Path("memory");
  options.corpus = settings.Texts("corpus");
  options.jsonl_fields = settings.Texts("jsonl-fields");
  options.tags = settings.Texts("tag");
  options.name = settings.Text("name");
  options.ttl_s = settings.Has("ttl") ? settings.Integer("ttl") : 0;
  options.off_domain = settings.Texts("off-domain");
  options.seed = static_cast<uint64_t>(settings.Integer("seed"));
  options.threads = ThreadsOf(settings);
  if (settings.Text("progress") == "json") options.progress = ProgressStyle::kJson;
  return options;
}

std::string TextOf(const AddReport& report) {
  std::string text;
  for (const Document& document : report.documents) {
    text +=
        fmt::format("{}  {:>7} tokens  {}\n", DocumentIdText(document.hash), document.tokens.size(), document.source);
  }
  for (const RefusedDocument& refused : report.refused) {
    text += fmt::format("refused: {} {}\n", refused.source, refused.reason);
  }
  text += fmt::format("added {} documents of {} tokens: {} {} and {} pairs of the gate, published as generation {}\n",
                      FormatCount(report.documents.size()), FormatCount(report.tokens), FormatCount(report.rows),
                      MemoryKindText(report.manifest.kind), FormatCount(report.pairs), report.manifest.generation);
  for (const std::string& note : report.notes) text += fmt::format("note: {}\n", note);
  text += "the verdict is stale: run pointsman eval\n";
  if (AddedShare(report.manifest) > kRebuildShare) {
    text += fmt::format("{:.0f} % of the memory was added since its build: a rebuild pays\n",
                        100 * AddedShare(report.manifest));
  }
  return text;
}

}  // namespace

Result<Output> RunDocsAdd(const Settings& settings) {
  POINTSMAN_TRY(const AddReport report, AddDocuments(AddOptionsOf(settings)));
  Output output{.json = {{"documents", nlohmann::json::array()}, {"refused", nlohmann::json::array()}},
                .text = TextOf(report),
                .exit_code = 0};
  for (const Document& document : report.documents) output.json["documents"].push_back(DocumentJson(document));
  for (const RefusedDocument& refused : report.refused) {
    output.json["refused"].push_back({{"source", refused.source}, {"reason", refused.reason}});
  }
  output.json.update({{"tokens", report.tokens},
                      {"rows", report.rows},
                      {"output_rows", report.output_rows},
                      {"pairs", report.pairs},
                      {"train_s", report.train_s},
                      {"generation", report.manifest.generation},
                      {"added_share", AddedShare(report.manifest)},
                      {"notes", report.notes}});
  return output;
}

}  // namespace pointsman
