#include "memory/memory.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "memory/generation.h"
#include "memory/memory_paths.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;

// Publishing twice while a reader opens removes the generation under it; it then starts again from the manifest.
constexpr int kOpenAttempts = 4;

Error NeedsRepair(const fs::path& memory, std::string_view problem) {
  return {ErrorCode::kCorrupt, fmt::format("{}; run `pointsman verify --repair {}`", problem, memory.string())};
}

// Appends "field a != b" for values that differ; hashes are cut to what tells them apart.
void Compare(std::string_view field, const std::string& memory, const std::string& model, std::string& differences) {
  constexpr size_t kShown = 16;
  if (memory == model) return;
  differences +=
      fmt::format("{}{} {} (memory) != {} (model)", differences.empty() ? "" : ", ", field,
                  memory.empty() ? "none" : memory.substr(0, kShown), model.empty() ? "none" : model.substr(0, kShown));
}

}  // namespace

uint64_t BytesUnder(const fs::path& directory) {
  uint64_t total = 0;
  std::error_code code;
  for (fs::recursive_directory_iterator it(directory, code), end; !code && it != end; it.increment(code)) {
    std::error_code ignored;  // a file that RocksDB removes meanwhile counts as nothing
    if (it->is_regular_file(ignored)) {
      const uint64_t size = it->file_size(ignored);
      if (!ignored) total += size;
    }
  }
  return total;
}

Result<Manifest> ReadManifestFile(FileSystem& files, const fs::path& memory) {
  const fs::path path = ManifestPath(memory);
  auto text = files.ReadFile(path);
  if (!text.ok() && text.error().code == ErrorCode::kNotFound) {
    return Error{ErrorCode::kNotFound,
                 fmt::format("{}: not a memory (no MANIFEST.json); build one with `pointsman build` or, "
                             "if the file was lost, run `pointsman verify --repair {}`",
                             memory.string(), memory.string())};
  }
  if (!text.ok()) return text.error();
  return ParseManifest(text.value(), path.string());
}

Result<RoutingTables> OpenPublished(FileSystem& files, const fs::path& memory, const Manifest& manifest,
                                    bool load_to_ram, bool verify, bool check_digest) {
  const fs::path directory = GenerationPath(memory, manifest.generation);
  if (!files.Exists(directory)) return NeedsRepair(memory, directory.string() + ": missing");
  auto tables = MapGeneration(files, directory, load_to_ram, verify);
  if (!tables.ok()) {
    const Error& error = tables.error();
    if (error.code != ErrorCode::kCorrupt && error.code != ErrorCode::kNotFound) return error;
    return NeedsRepair(memory, error.message.substr(0, error.message.rfind("; ")));
  }
  if (tables.value().kind != manifest.kind || tables.value().value_kind != manifest.value_kind) {
    return NeedsRepair(memory, directory.string() + ": another kind of memory than MANIFEST.json says");
  }
  if (check_digest && !manifest.digest.empty() && Digest(tables.value()) != manifest.digest) {
    return NeedsRepair(memory, directory.string() + ": its digest is not the one in MANIFEST.json");
  }
  return tables;
}

Result<std::shared_ptr<const Memory>> Memory::Open(const fs::path& directory, const OpenOptions& options) {
  FileSystem& files = options.files != nullptr ? *options.files : FileSystem::Real();
  auto memory = std::make_shared<Memory>();
  memory->directory_ = directory;
  POINTSMAN_TRY(memory->manifest_, ReadManifestFile(files, directory));
  for (int attempt = 1;; ++attempt) {
    auto tables = OpenPublished(files, directory, memory->manifest_, options.load_to_ram, options.verify_checksums,
                                /*check_digest=*/false);
    POINTSMAN_TRY(Manifest now, ReadManifestFile(files, directory));
    // A restore may have put another memory here, with the same number, between the manifest and its files.
    const bool same_number = now.generation == memory->manifest_.generation;
    const bool replaced = same_number && now.digest != memory->manifest_.digest;
    if (tables.ok() && !replaced) {
      memory->tables_ = std::move(tables).value();
      return std::shared_ptr<const Memory>(std::move(memory));
    }
    if (!tables.ok() && ((same_number && !replaced) || attempt == kOpenAttempts)) return tables.error();
    if (attempt == kOpenAttempts) {
      return Error{ErrorCode::kBusy, directory.string() + ": is being replaced; open it again"};
    }
    memory->manifest_ = std::move(now);
  }
}

MemoryStats Memory::stats() const {
  MemoryStats stats;
  stats.generation = manifest_.generation;
  for (const LayerView& layer : tables_.layers) stats.rows += layer.keys.rows;
  stats.derived_bytes = BytesUnder(GenerationPath(directory_, manifest_.generation));
  stats.truth_bytes = BytesUnder(TruthPath(directory_));
  return stats;
}

Result<std::string> Memory::CheckFingerprint(const Fingerprint& model) const {
  const Fingerprint& built_for = manifest_.fingerprint;
  std::string differences;
  Compare("architecture", built_for.architecture, model.architecture, differences);
  Compare("config_sha256", built_for.config_sha256, model.config_sha256, differences);
  Compare("router_sha256", built_for.router_sha256, model.router_sha256, differences);
  Compare("tokenizer_sha256", built_for.tokenizer_sha256, model.tokenizer_sha256, differences);
  if (!differences.empty()) {
    return Error{ErrorCode::kMismatch,
                 fmt::format("{}: built for another model: {}; use the model it was built for or build "
                             "a memory for this one",
                             directory_.string(), differences)};
  }
  std::string warnings;
  Compare("dtype", built_for.dtype, model.dtype, warnings);
  Compare("experts_sha256", built_for.experts_sha256, model.experts_sha256, warnings);
  if (!warnings.empty()) {
    warnings = fmt::format("{}: built for a variant of this model: {}; its verdict may not hold, run `pointsman eval`",
                           directory_.string(), warnings);
  }
  return warnings;
}

}  // namespace pointsman
