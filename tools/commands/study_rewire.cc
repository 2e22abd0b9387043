// pointsman study rewire: what the settings of online rerouting do, one varied at a time, on texts of several kinds.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>

#include "indexer/corpus_group.h"
#include "indexer/evaluation/rerouting_study.h"
#include "indexer/job.h"
#include "indexer/progress.h"
#include "memory/file_layer.h"
#include "memory/memory.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/rewire_settings.h"

namespace pointsman {
namespace {

// What the memory knows: text like it must not be scored under it.
Result<std::vector<Document>> DocumentsOf(const Memory& memory) {
  std::vector<Document> documents;
  POINTSMAN_TRY(const std::unique_ptr<EntryStore> truth, memory.OpenTruth());
  POINTSMAN_CHECK_OK(truth->ForEachDocument([&](const Document& document) -> Status {
    documents.push_back(document);
    return {};
  }));
  return documents;
}

constexpr const char* kNextWindow = "next window";  // not a setting: what was learned, later in the document
constexpr const char* kBesideMemory = "beside a memory";

bool IsChosen(const std::vector<std::string>& groups, const std::string& group) {
  return std::any_of(groups.begin(), groups.end(), [&](const std::string& g) { return g == "all" || g == group; });
}

Result<std::vector<StudySetting>> ChosenSettings(const Settings& settings, const ReroutingOptions& base) {
  const std::vector<std::string> groups = settings.Texts("groups");
  std::vector<StudySetting> grid = StudyGrid(base);
  std::set<std::string> known{kNextWindow, kBesideMemory};
  for (const StudySetting& setting : grid) known.insert(setting.group);
  for (const std::string& group : groups) {
    if (group == "all" || known.contains(group)) continue;
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--groups {}: use all or some of {}", group, fmt::join(known, ", "))};
  }
  std::erase_if(grid, [&](const StudySetting& setting) { return !IsChosen(groups, setting.group); });
  return grid;
}

}  // namespace

Result<Output> RunStudyRewire(const Settings& settings) {
  POINTSMAN_TRY(const ReroutingOptions base, ReroutingOptionsOf(settings));
  POINTSMAN_TRY(std::vector<StudySetting> grid, ChosenSettings(settings, base));
  POINTSMAN_TRY(const std::vector<CorpusGroup> named, ParseCorpusGroups("--text", settings.Texts("text")));
  CorpusOptions options;
  options.model = settings.Path("model");
  options.seed = static_cast<uint64_t>(settings.Integer("seed"));
  options.threads = ThreadsOf(settings);
  POINTSMAN_TRY(const auto model, LoadModel(options));
  std::shared_ptr<const RoutingTables> tables;
  std::vector<Document> known;
  if (settings.Has("memory")) {
    POINTSMAN_TRY(const std::shared_ptr<const Memory> memory, Memory::Open(settings.Path("memory"), {}));
    POINTSMAN_CHECK_OK(memory->CheckFingerprint(model->fingerprint()));
    tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables());
    POINTSMAN_TRY(known, DocumentsOf(*memory));
  }
  const std::vector<std::string> groups = settings.Texts("groups");
  if (!tables && std::find(groups.begin(), groups.end(), kBesideMemory) != groups.end()) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("--groups {}: give a --memory", kBesideMemory)};
  }
  const auto windows = static_cast<uint32_t>(settings.Integer("windows"));
  std::vector<StudyText> texts;
  for (const CorpusGroup& text : named) {
    POINTSMAN_TRY(StudyText loaded, LoadStudyText(*model, options, text.name, text.paths, windows, known));
    texts.push_back(std::move(loaded));
  }
  const auto say = [&](const StudyRow& row) {
    Say(options, fmt::format("{} {}: {:+.4f} nats on {}", row.setting.group, row.setting.label, row.cells[0].gain,
                             texts[0].name));
  };
  POINTSMAN_TRY(StudyReport report, RunReroutingStudy(*model, texts, grid, options.threads, say));
  const auto append = [&](std::vector<StudyRow> rows) {
    std::move(rows.begin(), rows.end(), std::back_inserter(report.rows));
  };
  if (tables && IsChosen(groups, kBesideMemory)) {
    POINTSMAN_TRY(auto rows, RunMemoryStudy(*model, texts, base, tables, options.threads));
    append(std::move(rows));
  }
  if (IsChosen(groups, kNextWindow)) {
    POINTSMAN_TRY(auto rows, RunNextWindowStudy(*model, texts, base, tables, options.threads));
    append(std::move(rows));
  }
  if (settings.Has("plot")) {
    POINTSMAN_CHECK_OK(FileSystem::Real().WriteAtomically(settings.Path("plot"), ToSvg(report)));
  }
  return Output{.json = ToJson(report), .text = ToTable(report), .exit_code = 0};
}

}  // namespace pointsman
