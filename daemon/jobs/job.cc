#include "daemon/jobs/job.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace pointsman {
namespace {

using nlohmann::json;

constexpr std::array kNames = {"queued", "running", "succeeded", "failed", "cancelled", "interrupted"};
constexpr int kVersion = 1;
constexpr size_t kStageBytes = 100;

std::optional<double> Number(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::optional<uint64_t> Count(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}

json OrNull(const auto& value) { return value ? json(*value) : json(); }

bool ReadText(const json& object, const char* name, std::string& into) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_string()) return false;
  into = found->get<std::string>();
  return true;
}

bool ReadStatus(const json& object, JobStatus& into) {
  std::string name;
  if (!ReadText(object, "status", name)) return false;
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  into = static_cast<JobStatus>(found - kNames.begin());
  return found != kNames.end();
}

bool ReadArguments(const json& object, std::vector<std::string>& into) {
  const auto found = object.find("arguments");
  if (found == object.end() || !found->is_array()) return false;
  for (const json& argument : *found) {
    if (!argument.is_string()) return false;
    into.push_back(argument.get<std::string>());
  }
  return true;
}

}  // namespace

const char* JobStatusName(JobStatus status) { return kNames[static_cast<size_t>(status)]; }

bool HasEnded(JobStatus status) {
  return status == JobStatus::kSucceeded || status == JobStatus::kFailed || status == JobStatus::kCancelled;
}

std::optional<JobProgress> ParseProgress(std::string_view line) {
  if (!line.starts_with('{')) return std::nullopt;
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  JobProgress progress;
  if (!object.is_object() || !ReadText(object, "stage", progress.stage) || progress.stage.empty()) return std::nullopt;
  progress.stage.resize(std::min(progress.stage.size(), kStageBytes));
  const std::optional<uint64_t> done = Count(object, "done");
  if (!done) return std::nullopt;
  progress.done = *done;
  progress.total = Count(object, "total");
  progress.rows_per_s = Number(object, "rows_per_s").value_or(0);
  progress.eta_s = Number(object, "eta_s");
  progress.loss = Number(object, "loss");
  return progress;
}

json ToJson(const JobProgress& progress) {
  json object = {{"stage", progress.stage},
                 {"done", progress.done},
                 {"total", OrNull(progress.total)},
                 {"rows_per_s", progress.rows_per_s},
                 {"eta_s", OrNull(progress.eta_s)}};
  if (progress.loss) object["loss"] = *progress.loss;
  return object;
}

std::string SerializeJob(const JobRecord& job) {
  const json object = {{"version", kVersion},
                       {"id", job.id},
                       {"kind", job.kind},
                       {"arguments", job.arguments},
                       {"memory", job.memory},
                       {"target", job.target},
                       {"principal", job.principal},
                       {"status", JobStatusName(job.status)},
                       {"created", job.created},
                       {"started", job.started},
                       {"finished", job.finished},
                       {"result", OrNull(job.result)},
                       {"error", job.error},
                       {"sequence", job.sequence},
                       {"attempts", job.attempts},
                       {"pid", job.pid},
                       {"start_ticks", job.start_ticks}};
  return object.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<JobRecord> ParseJob(const std::string& text) {
  json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  JobRecord job;
  const auto corrupt = [] { return Error{ErrorCode::kCorrupt, "not a job of this version"}; };
  if (!object.is_object() || Count(object, "version") != uint64_t{kVersion}) return corrupt();
  const bool whole = ReadText(object, "id", job.id) && ReadText(object, "kind", job.kind) &&
                     ReadText(object, "memory", job.memory) && ReadText(object, "target", job.target) &&
                     ReadText(object, "principal", job.principal) && ReadText(object, "error", job.error) &&
                     ReadStatus(object, job.status) && ReadArguments(object, job.arguments);
  if (!whole) return corrupt();
  const auto whole_number = [&](const char* name) { return Count(object, name).value_or(0); };
  job.created = static_cast<int64_t>(whole_number("created"));
  job.started = static_cast<int64_t>(whole_number("started"));
  job.finished = static_cast<int64_t>(whole_number("finished"));
  job.sequence = whole_number("sequence");
  job.attempts = static_cast<uint32_t>(whole_number("attempts"));
  job.pid = static_cast<int64_t>(whole_number("pid"));
  job.start_ticks = whole_number("start_ticks");
  if (const auto result = object.find("result"); result != object.end() && !result->is_null()) {
    job.result = std::make_shared<const json>(std::move(*result));
  }
  return job;
}

}  // namespace pointsman
