// What several commands share: the corpus options, and words for what a manifest says.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "adapt/host_options.h"
#include "indexer/builder.h"
#include "memory/manifest.h"
#include "memory/result.h"
#include "tools/settings.h"

namespace pointsman {

// REQUIRES: a command that has --corpus. Errors: those of ParseCorpusGroups.
Result<CorpusOptions> CorpusOptionsOf(const Settings& settings);
// --capture and what belongs to it; none: our own runtime, and then kInvalidArgument for what it would not read.
Result<std::optional<HostOptions>> HostOptionsOf(const Settings& settings);
// --threads, with 0 resolved to the number of cores.
int ThreadsOf(const Settings& settings);

const char* MemoryKindText(MemoryKind kind);  // "entries", "prototypes"
const char* ValueKindText(ValueKind kind);    // "delta", "logits", "assignments"
nlohmann::json VerdictJson(const VerdictSummary& verdict);
// "adopt: gain -0.071 [-0.082, -0.060] nats per token, damage ... on 12,345 tokens of 45 documents"
std::string VerdictText(const VerdictSummary& verdict);

}  // namespace pointsman
