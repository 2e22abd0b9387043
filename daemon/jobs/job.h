// A job: one run of the pointsman command beside the server, as it is told to clients and kept on disk. Plain values.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"

namespace pointsman {

enum class JobStatus : uint8_t {
  kQueued,
  kRunning,
  kSucceeded,
  kFailed,
  kCancelled,
  kInterrupted,  // by the server's own end; queued again at its next start
};
const char* JobStatusName(JobStatus status);
bool HasEnded(JobStatus status);  // succeeded, failed or cancelled

// One line of a command's --progress json (indexer/progress.h).
struct JobProgress {
  std::string stage;
  uint64_t done = 0;
  std::optional<uint64_t> total = {};
  double rows_per_s = 0;
  std::optional<double> eta_s = {}, loss = {};
};
// nullopt: not such a line.
std::optional<JobProgress> ParseProgress(std::string_view line);
nlohmann::json ToJson(const JobProgress& progress);

struct JobRecord {
  std::string id;                           // "job-" and 16 hex digits
  std::string kind;                         // "build", "eval", "documents"
  std::vector<std::string> arguments = {};  // of the command; never a secret: they are kept, and ps shows them
  std::string memory = {};                  // id of the memory that it is about: who may use it may see the job
  std::string target = {};                  // what it writes; jobs of one target run one after another
  std::string principal = {};               // who asked for it
  JobStatus status = JobStatus::kQueued;
  int64_t created = 0, started = 0, finished = 0;  // Unix seconds; 0: not yet
  std::optional<JobProgress> progress = {};        // the last; not kept on disk
  std::shared_ptr<const nlohmann::json> result = {};
  std::string error = {};    // for the operator: it may name paths
  uint64_t sequence = 0;     // order of submission
  uint32_t attempts = 0;     // starts that the server did not see the end of, this one included
  uint64_t revision = 0;     // grows with every change
  int64_t pid = 0;           // of the running child
  uint64_t start_ticks = 0;  // with pid, its identity
};

std::string SerializeJob(const JobRecord& job);
Result<JobRecord> ParseJob(const std::string& text);  // kCorrupt

}  // namespace pointsman
