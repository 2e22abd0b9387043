#include "daemon/memories.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "memory/file_layer.h"
#include "memory/memory_paths.h"

namespace pointsman {
namespace {

bool IsId(const std::string& id) {
  const auto plain = [](unsigned char c) { return std::islower(c) || std::isdigit(c); };
  return !id.empty() && id.size() <= 64 && plain(static_cast<unsigned char>(id.front())) &&
         std::ranges::all_of(id, [&](unsigned char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

Error NotLoaded(const std::string& id) { return {ErrorCode::kNotFound, "memory '" + id + "': not loaded"}; }

// What the operator should know of a memory that is loaded all the same.
Result<std::string> WarningOf(const Memory& memory, const std::string& fingerprint_warning, bool allow_rejected) {
  const VerdictSummary& verdict = memory.manifest().verdict;
  if (verdict.verdict == "reject" && !allow_rejected) {
    return Error{ErrorCode::kUnsupported,
                 "its verdict is reject: it would make the model worse; load it with "
                 "allow_rejected to use it all the same"};
  }
  std::string warning = fingerprint_warning;
  if (verdict.verdict != "adopt" || verdict.stale) {
    if (!warning.empty()) warning += "; ";
    warning += fmt::format("its verdict is {}{}", verdict.verdict, verdict.stale ? " (stale)" : "");
  }
  return warning;
}

}  // namespace

MemoryRegistry::MemoryRegistry(Fingerprint model, MetricRegistry& metrics)
    : model_(std::move(model)), metrics_(metrics) {}

Result<std::shared_ptr<const LoadedMemory>> MemoryRegistry::OpenNewest(const std::string& id,
                                                                       const MemorySettings& settings) const {
  POINTSMAN_TRY(auto memory, Memory::Open(settings.directory, {.load_to_ram = settings.load_to_ram}));
  POINTSMAN_TRY(const std::string fingerprint_warning, memory->CheckFingerprint(model_));
  auto loaded = std::make_shared<LoadedMemory>();
  POINTSMAN_TRY(loaded->warning, WarningOf(*memory, fingerprint_warning, settings.allow_rejected));
  loaded->id = id;
  loaded->settings = settings;
  loaded->generation = memory->manifest().generation;
  // The tables are a part of the memory: sharing its ownership keeps both alive.
  loaded->tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables());
  loaded->memory = std::move(memory);
  return std::shared_ptr<const LoadedMemory>(std::move(loaded));
}

void MemoryRegistry::AddMetrics(const std::string& id, const std::shared_ptr<MemoryState>& state) {
  const Labels labels = {{"memory", id}};
  const auto add = [&](const char* name, const char* help, auto value) {
    metrics_.AddCallback(name, help, "counter", labels, [state, value] { return value(*state); });
  };
  add("pointsman_memory_requests_total", "Requests that were bound to the memory.",
      [](const MemoryState& s) { return static_cast<double>(s.requests); });
  add("pointsman_memory_tokens_total", "Tokens generated with the memory.",
      [](const MemoryState& s) { return static_cast<double>(s.tokens); });
  add("pointsman_memory_open_tokens_total", "Of these, tokens at which its gate was open.",
      [](const MemoryState& s) { return static_cast<double>(s.open_tokens); });
  add("pointsman_memory_gate_total", "Sum of the gate over all tokens.",
      [](const MemoryState& s) { return s.gate_sum.load(); });
  add("pointsman_memory_confidence_total", "Sum of gate times confidence over all tokens.",
      [](const MemoryState& s) { return s.confidence_sum.load(); });
  const auto add_live = [&](const char* name, const char* help, auto value) {
    metrics_.AddCallback(name, help, "gauge", labels, [state, value] { return value(state->window.Read().all); });
  };
  add_live("pointsman_memory_window_tokens", "Newest tokens that the window's means are over.",
           [](const RoutingSignal& s) { return static_cast<double>(s.tokens); });
  add_live("pointsman_memory_window_open_ratio", "Share of the newest tokens at which the gate was open.",
           [](const RoutingSignal& s) { return s.open_share; });
  add_live("pointsman_memory_window_confidence_ratio", "Mean of gate times confidence over the newest tokens.",
           [](const RoutingSignal& s) { return s.confidence_mean; });
  add_live("pointsman_memory_window_similarity", "Mean similarity of the nearest key where the gate was open.",
           [](const RoutingSignal& s) { return s.similarity_mean; });
  metrics_.AddCallback("pointsman_memory_drift_alarm", "1: live text is no longer like what the memory was built for.",
                       "gauge", labels, [this, id, state] {
                         const auto use = Find(id);
                         if (!use.ok()) return 0.0;
                         const auto& calibration = use.value().loaded->memory->manifest().calibration;
                         return DriftOf(state->window.Read().all, calibration).alarm ? 1.0 : 0.0;
                       });
  metrics_.AddCallback("pointsman_memory_bytes", "Bytes of what is routed with, mapped or in RAM.", "gauge", labels,
                       [this, id] {
                         const auto use = Find(id);
                         return use.ok() ? static_cast<double>(use.value().loaded->memory->stats().derived_bytes) : 0.0;
                       });
  metrics_.AddCallback("pointsman_memory_generation", "The generation in use.", "gauge", labels, [this, id] {
    const auto use = Find(id);
    return use.ok() ? static_cast<double>(use.value().loaded->generation) : 0.0;
  });
}

Result<MemoryUse> MemoryRegistry::Load(const std::string& id, const MemorySettings& settings) {
  if (!IsId(id)) {
    return Error{ErrorCode::kInvalidArgument, "memory '" + id.substr(0, 80) +
                                                  "': an id has 1 to 64 characters of a-z, 0-9, '.', '_' and '-', and "
                                                  "begins with a letter or digit"};
  }
  if (Find(id).ok()) return Error{ErrorCode::kBusy, "memory '" + id + "': the id is taken; unload that one first"};
  MemoryUse use;
  POINTSMAN_TRY(use.loaded, OpenNewest(id, settings));
  use.state = std::make_shared<MemoryState>();
  {
    const std::lock_guard lock(mutex_);
    if (!memories_.try_emplace(id, use).second) {
      return Error{ErrorCode::kBusy, "memory '" + id + "': the id is taken; unload that one first"};
    }
  }
  AddMetrics(id, use.state);
  return use;
}

Status MemoryRegistry::Unload(const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    if (memories_.erase(id) == 0) return NotLoaded(id);
  }
  metrics_.Remove("memory", id);
  return {};
}

Result<uint64_t> MemoryRegistry::Reload(const std::string& id) {
  POINTSMAN_TRY(const MemoryUse before, Find(id));
  POINTSMAN_TRY(const auto fresh, OpenNewest(id, before.loaded->settings));
  const std::lock_guard lock(mutex_);
  const auto found = memories_.find(id);
  if (found == memories_.end()) return NotLoaded(id);
  found->second.loaded = fresh;
  return fresh->generation;
}

Status MemoryRegistry::WouldLoad(const MemorySettings& settings) const {
  const auto opened = OpenNewest("", settings);
  return opened.ok() ? Status() : Status(opened.error());
}

std::vector<std::string> MemoryRegistry::FollowAll() {
  std::vector<std::string> changed;
  for (const MemoryUse& use : All()) {
    const auto manifest = ReadManifestFile(FileSystem::Real(), use.loaded->settings.directory);
    // The number alone does not tell: a restore brings old ones back.
    if (!manifest.ok() || (manifest.value().generation == use.loaded->generation &&
                           manifest.value().digest == use.loaded->memory->manifest().digest)) {
      continue;
    }
    if (Reload(use.loaded->id).ok()) changed.push_back(use.loaded->id);
  }
  return changed;
}

Result<MemoryUse> MemoryRegistry::Find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = memories_.find(id);
  if (found == memories_.end()) return NotLoaded(id);
  return found->second;
}

std::vector<MemoryUse> MemoryRegistry::All() const {
  const std::lock_guard lock(mutex_);
  std::vector<MemoryUse> all;
  for (const auto& [id, use] : memories_) all.push_back(use);
  return all;
}

void MemoryRegistry::CountToken(MemoryState& state, float gate, float confidence, std::span<const LayerSignal> layers) {
  ++state.tokens;
  if (gate > 0) ++state.open_tokens;
  state.gate_sum += gate;
  state.confidence_sum += confidence;
  state.window.Add(gate, confidence, layers);
}

LiveUse MemoryRegistry::UseOf(const MemoryState& state) {
  LiveUse use{.requests = state.requests, .tokens = state.tokens};
  const auto tokens = static_cast<double>(std::max<uint64_t>(1, use.tokens));
  use.open_share = static_cast<double>(state.open_tokens) / tokens;
  use.mean_gate = state.gate_sum / tokens;
  use.mean_confidence = state.confidence_sum / tokens;
  return use;
}

}  // namespace pointsman
