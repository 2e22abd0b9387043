#include "indexer/build_stages.h"

#include <nlohmann/json.hpp>

#include "memory/copy_tables.h"
#include "memory/generation.h"

namespace pointsman {
namespace {

constexpr const char* kNoteName = "stage.json";

}  // namespace

std::optional<Candidate> BuildStages::Load(const std::string& name) const {
  const std::filesystem::path directory = directory_ / name;
  Result<std::string> text = files_.ReadFile(directory_ / (name + "." + kNoteName));
  if (!text.ok()) return std::nullopt;
  const nlohmann::json note = nlohmann::json::parse(text.value(), nullptr, /*allow_exceptions=*/false);
  if (!note.is_object() || note.value("inputs", "") != inputs_) return std::nullopt;
  const Result<RoutingTables> tables = MapGeneration(files_, directory, /*load_to_ram=*/true, /*verify=*/true);
  if (!tables.ok()) return std::nullopt;
  Candidate candidate;
  candidate.name = name;
  candidate.tables = CopyTables(tables.value());
  candidate.build_s = note.value("build_s", 0.0);
  candidate.training.initial_nll = note.value("initial_nll", 0.0);
  candidate.training.best_nll = note.value("best_nll", 0.0);
  candidate.training.best_epoch = note.value("best_epoch", 0);
  return candidate;
}

Status BuildStages::Save(const Candidate& candidate) {
  const std::filesystem::path directory = directory_ / candidate.name;
  POINTSMAN_CHECK_OK(files_.CreateDirectories(directory_));
  POINTSMAN_CHECK_OK(files_.Remove(directory));
  POINTSMAN_CHECK_OK(WriteGeneration(files_, directory, *MakeTables(candidate.tables)));
  const nlohmann::json note{{"inputs", inputs_},
                            {"build_s", candidate.build_s},
                            {"initial_nll", candidate.training.initial_nll},
                            {"best_nll", candidate.training.best_nll},
                            {"best_epoch", candidate.training.best_epoch}};
  return files_.WriteAtomically(directory_ / (candidate.name + "." + kNoteName), note.dump(1));
}

}  // namespace pointsman
