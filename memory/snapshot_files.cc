#include "memory/snapshot_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <variant>

#include "memory/derived_copy.h"
#include "memory/hash.h"
#include "memory/strict_json.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kRecordVersion = 1;
constexpr size_t kMaxRecordBytes = size_t{256} << 20;
constexpr size_t kPieceBytes = size_t{1} << 20;

bool IsHex(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= 128 && name.front() != '.' && std::ranges::all_of(name, [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

// MANIFEST.json, derived/gen-NNN/NAME or truth/NAME.
bool IsMemoryPath(const std::string& path) {
  if (path == "MANIFEST.json") return true;
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || !IsPlainName(std::string_view(path).substr(slash + 1))) return false;
  const std::string_view folder = std::string_view(path).substr(0, slash);
  constexpr std::string_view kDerived = "derived/";
  return folder == "truth" || (folder.starts_with(kDerived) && GenerationNumber(folder.substr(kDerived.size())) != 0);
}

json ToJson(const SnapshotInfo& info) {
  json list = json::array();
  for (const SnapshotFile& file : info.files) {
    list.push_back({{"path", file.path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return {{"format_version", kRecordVersion}, {"name", info.name},     {"created", info.created_unix_s},
          {"generation", info.generation},    {"digest", info.digest}, {"truth_sequence", info.truth_sequence},
          {"files", std::move(list)}};
}

// Keys in the order of bytes and no spaces but the indentation: one text for one record.
std::string HashOf(const json& without_hash) { return Sha256Hex(without_hash.dump(2)); }

template <typename Use>
Status ForEachPiece(std::span<const std::byte> bytes, Use use) {
  for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
    POINTSMAN_CHECK_OK(use(bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at))));
  }
  return {};
}

std::set<fs::path> FoldersOf(const std::vector<std::string>& paths) {
  std::set<fs::path> folders;
  for (const std::string& path : paths) {
    for (fs::path folder = fs::path(path).parent_path(); !folder.empty(); folder = folder.parent_path()) {
      folders.insert(folder);
    }
  }
  return folders;
}

}  // namespace

std::string SerializeSnapshotRecord(SnapshotInfo& info) {
  json record = ToJson(info);
  info.sha256 = HashOf(record);
  record["sha256"] = info.sha256;
  return record.dump(2) + "\n";
}

Result<SnapshotInfo> ParseSnapshotRecord(const std::string& text, const fs::path& path_for_errors) {
  const auto damaged = [&](std::string_view what) {
    return Error{ErrorCode::kCorrupt, fmt::format("{}: {}; use another snapshot", path_for_errors.string(), what)};
  };
  if (text.size() > kMaxRecordBytes) return damaged("too large");
  auto parsed = ParseStrictJson(text, {.depth = 4});
  if (const auto* problem = std::get_if<JsonProblem>(&parsed)) return damaged(problem->what);
  json record = std::move(std::get<json>(parsed));
  const auto unsigned_at = [](const json& object, const char* key) {
    return object.contains(key) && object[key].is_number_unsigned();
  };
  const auto text_at = [](const json& object, const char* key) {
    return object.contains(key) && object[key].is_string();
  };
  if (!record.is_object() || !unsigned_at(record, "format_version")) return damaged("is not a snapshot's record");
  if (record["format_version"] != kRecordVersion) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: format version {}, this Pointsman reads {}; install the version that wrote it",
                             path_for_errors.string(), record["format_version"].dump(), kRecordVersion)};
  }
  if (!text_at(record, "sha256")) return damaged("has no sha256");
  SnapshotInfo info;
  info.sha256 = record["sha256"].get<std::string>();
  record.erase("sha256");
  if (HashOf(record) != info.sha256) return damaged("is not what its sha256 says");
  // The hash finds damage; what follows holds for a record that somebody else wrote, too.
  const bool shaped = record.size() == 7 && text_at(record, "name") && unsigned_at(record, "created") &&
                      unsigned_at(record, "generation") && text_at(record, "digest") &&
                      unsigned_at(record, "truth_sequence") && record.contains("files") && record["files"].is_array();
  if (!shaped) return damaged("lacks a field, or has one of the wrong type");
  info.name = record["name"].get<std::string>();
  info.created_unix_s = record["created"].get<int64_t>();
  info.generation = record["generation"].get<uint64_t>();
  info.digest = record["digest"].get<std::string>();
  info.truth_sequence = record["truth_sequence"].get<uint64_t>();
  if (!IsSnapshotName(info.name)) return damaged("has a name that no snapshot has");
  std::set<std::string> seen;
  for (const json& entry : record["files"]) {
    if (!entry.is_object() || !text_at(entry, "path") || !unsigned_at(entry, "bytes") || !text_at(entry, "sha256")) {
      return damaged("has a file without path, bytes or sha256");
    }
    SnapshotFile file{.path = entry["path"].get<std::string>(),
                      .bytes = entry["bytes"].get<uint64_t>(),
                      .sha256 = entry["sha256"].get<std::string>()};
    if (!IsMemoryPath(file.path) || !IsHex(file.sha256, 64) || !seen.insert(file.path).second) {
      return damaged("names a file that no memory has, or one twice");
    }
    info.files.push_back(std::move(file));
  }
  if (!seen.contains("MANIFEST.json")) return damaged("names no MANIFEST.json");
  return info;
}

Result<SnapshotFile> HashFile(FileSystem& files, const fs::path& root, const std::string& path) {
  // A link would lead out of the snapshot, and opening a pipe waits for ever.
  std::error_code error;
  const fs::file_status status = fs::symlink_status(root / path, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return Error{ErrorCode::kCorrupt, (root / path).string() + ": is not a plain file; use another snapshot"};
  }
  POINTSMAN_TRY(const std::shared_ptr<const MappedFile> file, files.Map(root / path));
  Sha256Stream hash;
  hash.Update(file->bytes());
  return SnapshotFile{.path = path, .bytes = file->bytes().size(), .sha256 = hash.Hex()};
}

Result<SnapshotFile> CopyFile(FileSystem& files, const fs::path& from, const fs::path& to, const std::string& path) {
  POINTSMAN_TRY(const std::shared_ptr<const MappedFile> source, files.Map(from / path));
  POINTSMAN_TRY(const std::unique_ptr<WritableFile> copy, files.Create(to / path));
  Sha256Stream hash;
  POINTSMAN_CHECK_OK(ForEachPiece(source->bytes(), [&](std::span<const std::byte> piece) {
    hash.Update(piece);
    return copy->Append(piece);
  }));
  POINTSMAN_CHECK_OK(copy->Sync());
  POINTSMAN_CHECK_OK(copy->Close());
  return SnapshotFile{.path = path, .bytes = source->bytes().size(), .sha256 = hash.Hex()};
}

Status MakeDirectoriesOf(FileSystem& files, const fs::path& root, const std::vector<std::string>& paths) {
  for (const fs::path& folder : FoldersOf(paths)) POINTSMAN_CHECK_OK(files.CreateDirectories(root / folder));
  return {};
}

Status SyncDirectoriesOf(FileSystem& files, const fs::path& root, const std::vector<std::string>& paths) {
  for (const fs::path& folder : FoldersOf(paths)) POINTSMAN_CHECK_OK(files.SyncDirectory(root / folder));
  return files.SyncDirectory(root);
}

Status RemoveAllButLock(FileSystem& files, const fs::path& directory) {
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(directory));
  for (const std::string& name : names) {
    if (name != "LOCK") POINTSMAN_CHECK_OK(files.Remove(directory / name));
  }
  return {};
}

fs::path WithoutSlash(const fs::path& path) { return path.filename().empty() ? path.parent_path() : path; }

}  // namespace pointsman
