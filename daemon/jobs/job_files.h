// The files of jobs, as runner.h describes them. One server at a time; calls for different jobs from any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/jobs/job.h"
#include "memory/result.h"
#include "memory/writer_lock.h"

namespace pointsman {

class JobFiles {
 public:
  // Plain file names, or FOLDER/NAME, and bytes.
  using Uploads = std::vector<std::pair<std::string, std::string>>;
  static constexpr const char* kUploads = "uploads";

  // Makes the directory if it is not there. kBusy: another server uses it.
  static Result<JobFiles> Open(std::filesystem::path directory);

  std::filesystem::path DirectoryOf(const std::string& id) const { return directory_ / id; }
  Result<std::vector<std::string>> Ids() const;
  // nullopt: it was never accepted (no job.json), and what there was of it is removed. kCorrupt: left alone.
  Result<std::optional<JobRecord>> Read(const std::string& id) const;
  Status Write(const JobRecord& job) const;
  Status WriteUploads(const std::string& id, const Uploads& uploads) const;  // makes the job's directory, too
  Status RemoveUploads(const std::string& id) const;
  Status Remove(const std::string& id) const;

 private:
  JobFiles(std::filesystem::path directory, WriterLock lock)
      : directory_(std::move(directory)), lock_(std::move(lock)) {}
  std::filesystem::path directory_;
  WriterLock lock_;
};

}  // namespace pointsman
