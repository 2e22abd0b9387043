#include "daemon/jobs/job_files.h"

#include <set>
#include <span>

#include "memory/file_layer.h"

namespace pointsman {
namespace {

constexpr const char* kNote = "job.json";

bool IsJobId(const std::string& name) {
  return name.size() == 20 && name.starts_with("job-") &&
         name.find_first_not_of("0123456789abcdef", 4) == std::string::npos;
}

}  // namespace

Result<JobFiles> JobFiles::Open(std::filesystem::path directory) {
  const bool made = !FileSystem::Real().Exists(directory);
  POINTSMAN_CHECK_OK(FileSystem::Real().CreateDirectories(directory));
  std::error_code error;  // clients' texts are nobody else's to read, unless the operator has made the directory so
  if (made) std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
  if (error) return ErrnoError(directory, "protect", error.value());
  Result<WriterLock> lock = WriterLock::Acquire(directory);
  if (!lock.ok()) {
    if (lock.error().code != ErrorCode::kBusy) return lock.error();
    return Error{ErrorCode::kBusy,
                 directory.string() + ": another server runs its jobs there; give each a --jobs of its own"};
  }
  return JobFiles(std::move(directory), std::move(lock).value());
}

Result<std::vector<std::string>> JobFiles::Ids() const {
  POINTSMAN_TRY(std::vector<std::string> names, FileSystem::Real().List(directory_));
  std::erase_if(names, [](const std::string& name) { return !IsJobId(name); });
  return names;
}

Result<std::optional<JobRecord>> JobFiles::Read(const std::string& id) const {
  const std::filesystem::path path = DirectoryOf(id) / kNote;
  const Result<std::string> text = FileSystem::Real().ReadFile(path);
  if (!text.ok()) {
    if (text.error().code != ErrorCode::kNotFound) return text.error();
    POINTSMAN_CHECK_OK(Remove(id));
    return std::optional<JobRecord>();
  }
  Result<JobRecord> job = ParseJob(text.value());
  if (!job.ok() || job.value().id != id) {
    return Error{ErrorCode::kCorrupt, path.string() + ": damaged, left alone; remove the directory"};
  }
  return std::optional<JobRecord>(std::move(job).value());
}

Status JobFiles::Write(const JobRecord& job) const {
  return FileSystem::Real().WriteAtomically(DirectoryOf(job.id) / kNote, SerializeJob(job));
}

Status JobFiles::WriteUploads(const std::string& id, const Uploads& uploads) const {
  FileSystem& files = FileSystem::Real();
  const std::filesystem::path folder = DirectoryOf(id) / kUploads;
  POINTSMAN_CHECK_OK(files.CreateDirectories(folder));
  std::set<std::filesystem::path> folders{folder};
  for (const auto& [name, bytes] : uploads) {
    const std::filesystem::path parent = (folder / name).parent_path();
    if (folders.insert(parent).second) POINTSMAN_CHECK_OK(files.CreateDirectories(parent));
    POINTSMAN_TRY(const std::unique_ptr<WritableFile> file, files.Create(folder / name));
    POINTSMAN_CHECK_OK(file->Append(std::as_bytes(std::span(bytes.data(), bytes.size()))));
    POINTSMAN_CHECK_OK(file->Sync());
    POINTSMAN_CHECK_OK(file->Close());
  }
  for (const std::filesystem::path& made : folders) POINTSMAN_CHECK_OK(files.SyncDirectory(made));
  return {};
}

Status JobFiles::RemoveUploads(const std::string& id) const {
  return FileSystem::Real().Remove(DirectoryOf(id) / kUploads);
}

Status JobFiles::Remove(const std::string& id) const { return FileSystem::Real().Remove(DirectoryOf(id)); }

}  // namespace pointsman
