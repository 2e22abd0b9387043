// The memories that the server has loaded: each under an id, on one published generation, replaced without a pause.
//
// A request takes a snapshot (Find) and keeps it until it ends: a swap or an unload never changes a request that runs.
// What it used stays mapped until the last request lets go. Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "daemon/live_window.h"
#include "daemon/metrics.h"
#include "memory/manifest.h"
#include "memory/memory.h"
#include "memory/result.h"

namespace pointsman {

struct MemorySettings {
  std::filesystem::path directory;
  bool load_to_ram = false;
  bool allow_rejected = false;  // a verdict of `reject` is refused otherwise
  float strength = 1.0f;        // default of its requests
};

// What routing with this memory has met since it was loaded.
struct LiveUse {
  uint64_t requests = 0, tokens = 0;
  double open_share = 0;  // tokens whose gate was above 0
  double mean_gate = 0;
  double mean_confidence = 0;  // over all tokens
};

// One generation of one memory. Immutable.
struct LoadedMemory {
  std::string id;
  MemorySettings settings;
  std::shared_ptr<const Memory> memory;
  std::shared_ptr<const RoutingTables> tables;  // shares ownership of `memory`
  uint64_t generation = 0;
  std::string warning;  // of the fingerprint or verdict; empty: none
};

// Live switches and counters of an id; survive swaps.
struct MemoryState {
  std::atomic<bool> shadow{false};    // compute and count, write nothing
  std::atomic<bool> disabled{false};  // kill switch: requests run frozen
  std::atomic<uint64_t> requests{0}, tokens{0}, open_tokens{0};
  std::atomic<double> gate_sum{0}, confidence_sum{0};
  LiveWindow window;
};

struct MemoryUse {
  std::shared_ptr<const LoadedMemory> loaded;
  std::shared_ptr<MemoryState> state;
};

class MemoryRegistry {
 public:
  // `model`: what memories must have been built for. `metrics` outlives the registry.
  MemoryRegistry(Fingerprint model, MetricRegistry& metrics);

  // Ids: 1..64 of [a-z0-9._-], beginning with a letter or digit. Errors: kInvalidArgument (id), kBusy (id is taken),
  // kMismatch (fingerprint, both values), kUnsupported (verdict reject without allow_rejected), Memory::Open's.
  Result<MemoryUse> Load(const std::string& id, const MemorySettings& settings);
  // kNotFound. Requests that run go on.
  Status Unload(const std::string& id);
  // Opens the newest generation and puts it in place. The old one stays in use if that fails. Returns the generation.
  Result<uint64_t> Reload(const std::string& id);
  // What Load would say to a memory in settings.directory, which is opened and let go.
  Status WouldLoad(const MemorySettings& settings) const;
  // Reloads every memory whose manifest on disk publishes another generation (`--follow`); returns ids that changed.
  std::vector<std::string> FollowAll();

  Result<MemoryUse> Find(const std::string& id) const;  // kNotFound
  std::vector<MemoryUse> All() const;                   // by id
  // Counts one token of a request (LiveWindow::Add). Called by the compute thread.
  static void CountToken(MemoryState& state, float gate, float confidence, std::span<const LayerSignal> layers);
  static LiveUse UseOf(const MemoryState& state);

 private:
  Result<std::shared_ptr<const LoadedMemory>> OpenNewest(const std::string& id, const MemorySettings& settings) const;
  void AddMetrics(const std::string& id, const std::shared_ptr<MemoryState>& state);

  Fingerprint model_;
  MetricRegistry& metrics_;
  mutable std::mutex mutex_;
  std::map<std::string, MemoryUse, std::less<>> memories_;
};

}  // namespace pointsman
