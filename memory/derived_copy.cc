#include "memory/derived_copy.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include "memory/manifest.h"

namespace pointsman {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;  // fits RocksDB's write buffer several times
constexpr std::string_view kPrefix = "derived/";
constexpr std::string_view kGenerationPrefix = "gen-";
constexpr std::string_view kKeptPrefix = "kept/";
constexpr std::string_view kFloorKey = "kept/floor";

std::string Prefix(uint64_t generation) { return fmt::format("{}{}/", kPrefix, GenerationName(generation)); }
std::string ManifestKey(uint64_t generation) { return Prefix(generation) + "manifest"; }
std::string ChunkPrefix(uint64_t generation) { return Prefix(generation) + "files/"; }

Status WriteFile(FileSystem& files, EntryStore& store, const std::vector<std::string>& chunk_keys,
                 const std::filesystem::path& path) {
  POINTSMAN_TRY(const std::unique_ptr<WritableFile> file, files.Create(path));
  for (const std::string& key : chunk_keys) {
    POINTSMAN_TRY(const std::string chunk, store.GetSetting(key));
    POINTSMAN_CHECK_OK(file->Append(std::as_bytes(std::span(chunk))));
  }
  POINTSMAN_CHECK_OK(file->Sync());
  return file->Close();
}

}  // namespace

std::string GenerationName(uint64_t generation) { return fmt::format("{}{:03}", kGenerationPrefix, generation); }

uint64_t GenerationNumber(std::string_view name) {
  if (!name.starts_with(kGenerationPrefix)) return 0;
  const std::string_view digits = name.substr(kGenerationPrefix.size());
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return error == std::errc() && GenerationName(number) == name ? number : 0;
}

Status CopyIntoTruth(FileSystem& files, const std::filesystem::path& directory, uint64_t generation,
                     EntryStore& store) {
  POINTSMAN_CHECK_OK(DropCopy(store, generation));
  POINTSMAN_TRY(const std::vector<std::string> names, files.List(directory));
  for (const std::string& name : names) {
    POINTSMAN_TRY(const std::shared_ptr<const MappedFile> file, files.Map(directory / name));
    const std::string_view bytes(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    size_t chunk = 0;
    do {  // an empty file has one empty chunk
      const std::string key = fmt::format("{}{}/{:06}", ChunkPrefix(generation), name, chunk);
      POINTSMAN_CHECK_OK(store.PutSetting(key, bytes.substr(chunk * kChunkBytes, kChunkBytes)));
    } while (++chunk * kChunkBytes < bytes.size());
  }
  return {};
}

Status RestoreFromTruth(FileSystem& files, EntryStore& store, uint64_t generation,
                        const std::filesystem::path& directory) {
  const std::string prefix = ChunkPrefix(generation);
  POINTSMAN_TRY(const std::vector<std::string> keys, store.ListSettings(prefix));
  std::map<std::string, std::vector<std::string>> chunks_by_file;
  for (const std::string& key : keys) {
    const size_t slash = key.rfind('/');
    if (slash == std::string::npos || slash <= prefix.size()) continue;
    std::vector<std::string>& chunks = chunks_by_file[key.substr(prefix.size(), slash - prefix.size())];
    if (key.substr(slash + 1) != fmt::format("{:06}", chunks.size())) {
      return Error{ErrorCode::kCorrupt,
                   fmt::format("truth: part {} of {} is missing; restore the memory from a snapshot or "
                               "build it again",
                               chunks.size(), key)};
    }
    chunks.push_back(key);
  }
  if (chunks_by_file.empty()) {
    return Error{ErrorCode::kNotFound,
                 fmt::format("truth: no copy of {}; restore the memory from a snapshot or build it again",
                             GenerationName(generation))};
  }
  POINTSMAN_CHECK_OK(files.CreateDirectories(directory));
  for (const auto& [name, chunk_keys] : chunks_by_file) {
    POINTSMAN_CHECK_OK(WriteFile(files, store, chunk_keys, directory / name));
  }
  return files.SyncDirectory(directory);
}

Status PutManifestCopy(EntryStore& store, uint64_t generation, std::string_view json) {
  return store.PutSetting(ManifestKey(generation), json);
}

Result<std::string> GetManifestCopy(EntryStore& store, uint64_t generation) {
  return store.GetSetting(ManifestKey(generation));
}

Result<std::vector<uint64_t>> CopiedGenerations(EntryStore& store) {
  POINTSMAN_TRY(const std::vector<std::string> keys, store.ListSettings(kPrefix));
  std::vector<uint64_t> generations;
  for (const std::string& key : keys) {
    const std::string_view name = std::string_view(key).substr(kPrefix.size());
    const uint64_t generation = GenerationNumber(name.substr(0, name.find('/')));
    if (generation != 0 && key == ManifestKey(generation)) generations.push_back(generation);
  }
  std::sort(generations.begin(), generations.end());
  return generations;
}

// By truth's sequence, not by number: after a rollback the lower one is published.
Result<std::string> NewestManifestCopy(EntryStore& store) {
  POINTSMAN_TRY(const std::vector<uint64_t> generations, CopiedGenerations(store));
  if (generations.empty()) return Error{ErrorCode::kNotFound, "truth: no generation was published"};
  std::string newest;
  uint64_t newest_sequence = 0;
  for (const uint64_t generation : generations) {
    POINTSMAN_TRY(std::string json, GetManifestCopy(store, generation));
    POINTSMAN_TRY(const Manifest manifest, ParseManifest(json, "truth: the manifest of " + GenerationName(generation)));
    if (!newest.empty() && manifest.truth_sequence < newest_sequence) continue;
    newest_sequence = manifest.truth_sequence;
    newest = std::move(json);
  }
  return newest;
}

// Backwards, so that the manifest, which marks a copy as complete, goes before the files.
Status DropCopy(EntryStore& store, uint64_t generation) {
  POINTSMAN_TRY(const std::vector<std::string> keys, store.ListSettings(Prefix(generation)));
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) POINTSMAN_CHECK_OK(store.DeleteSetting(*key));
  return {};
}

Status DropCopiesExcept(EntryStore& store, uint64_t generation) {
  POINTSMAN_TRY(const std::vector<std::string> keys, store.ListSettings(kPrefix));
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    if (!key->starts_with(Prefix(generation))) POINTSMAN_CHECK_OK(store.DeleteSetting(*key));
  }
  return {};
}

Status KeepManifest(EntryStore& store, uint64_t generation, std::string_view json) {
  return store.PutSetting(fmt::format("{}{}", kKeptPrefix, GenerationName(generation)), json);
}

Result<std::map<uint64_t, std::string>> KeptManifests(EntryStore& store) {
  POINTSMAN_TRY(const std::vector<std::string> keys, store.ListSettings(kKeptPrefix));
  std::map<uint64_t, std::string> manifests;
  for (const std::string& key : keys) {
    const uint64_t generation = GenerationNumber(std::string_view(key).substr(kKeptPrefix.size()));
    if (generation != 0) {
      POINTSMAN_TRY(manifests[generation], store.GetSetting(key));
    }
  }
  return manifests;
}

Status DropKeptManifestsExcept(EntryStore& store, uint64_t generation) {
  POINTSMAN_TRY(const auto manifests, KeptManifests(store));
  for (const auto& [number, json] : manifests) {
    if (number == generation) continue;
    POINTSMAN_CHECK_OK(store.DeleteSetting(fmt::format("{}{}", kKeptPrefix, GenerationName(number))));
  }
  return {};
}

Result<uint64_t> GenerationFloor(EntryStore& store) {
  const auto text = store.GetSetting(kFloorKey);
  if (!text.ok() && text.error().code == ErrorCode::kNotFound) return uint64_t{0};
  if (!text.ok()) return text.error();
  return GenerationNumber(text.value());
}

Status RaiseGenerationFloor(EntryStore& store, uint64_t at_least) {
  POINTSMAN_TRY(const uint64_t now, GenerationFloor(store));
  return at_least <= now ? Status() : store.PutSetting(kFloorKey, GenerationName(at_least));
}

}  // namespace pointsman
