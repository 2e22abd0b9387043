// pointsman study rewire: what the settings of online rerouting do, one varied at a time, on texts of several kinds.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>

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

// NAME=PATH
Status CheckText(const std::string& given) {
  const size_t equals = given.find('=');
  if (equals != 0 && equals != std::string::npos && equals + 1 != given.size()) return {};
  return Error{ErrorCode::kInvalidArgument, "--text " + given + ": use NAME=PATH, such as prose=docs/"};
}

// REQUIRES: CheckText accepts `given`.
Result<StudyText> LoadText(const MoeModel& model, const CorpusOptions& options, const std::string& given,
                           uint32_t windows) {
  const size_t equals = given.find('=');
  return LoadStudyText(model, options, given.substr(0, equals), {given.substr(equals + 1)}, windows);
}

constexpr const char* kNextWindow = "next window";  // not a setting: what was learned, later in the document

bool IsChosen(const std::vector<std::string>& groups, const std::string& group) {
  return std::any_of(groups.begin(), groups.end(), [&](const std::string& g) { return g == "all" || g == group; });
}

Result<std::vector<StudySetting>> ChosenSettings(const Settings& settings, const ReroutingOptions& base) {
  const std::vector<std::string> groups = settings.Texts("groups");
  std::vector<StudySetting> grid = StudyGrid(base);
  std::set<std::string> known{kNextWindow};
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
  for (const std::string& given : settings.Texts("text")) POINTSMAN_CHECK_OK(CheckText(given));
  CorpusOptions options;
  options.model = settings.Path("model");
  options.seed = static_cast<uint64_t>(settings.Integer("seed"));
  options.threads = ThreadsOf(settings);
  POINTSMAN_TRY(const auto model, LoadModel(options));
  std::vector<StudyText> texts;
  for (const std::string& given : settings.Texts("text")) {
    POINTSMAN_TRY(StudyText text, LoadText(*model, options, given, static_cast<uint32_t>(settings.Integer("windows"))));
    texts.push_back(std::move(text));
  }
  const auto say = [&](const StudyRow& row) {
    Say(options, fmt::format("{} {}: {:+.4f} nats on {}", row.setting.group, row.setting.label, row.cells[0].gain,
                             texts[0].name));
  };
  POINTSMAN_TRY(StudyReport report, RunReroutingStudy(*model, texts, grid, options.threads, say));
  if (const std::vector<std::string> groups = settings.Texts("groups"); IsChosen(groups, kNextWindow)) {
    std::shared_ptr<const RoutingTables> tables;
    if (settings.Has("memory")) {
      POINTSMAN_TRY(const std::shared_ptr<const Memory> memory, Memory::Open(settings.Path("memory"), {}));
      POINTSMAN_CHECK_OK(memory->CheckFingerprint(model->fingerprint()));
      tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables());
    }
    POINTSMAN_TRY(auto rows, RunNextWindowStudy(*model, texts, base, tables, options.threads));
    std::move(rows.begin(), rows.end(), std::back_inserter(report.rows));
  }
  if (settings.Has("plot")) {
    POINTSMAN_CHECK_OK(FileSystem::Real().WriteAtomically(settings.Path("plot"), ToSvg(report)));
  }
  return Output{.json = ToJson(report), .text = ToTable(report), .exit_code = 0};
}

}  // namespace pointsman
