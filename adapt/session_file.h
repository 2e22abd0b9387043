// A session's rerouting vectors as a small JSON file, so that a later request may go on from them:
//
//   {"format": "pointsman session", "version": 1, "fingerprint": {...}, "layers": [{"layer": 5, "vector": [..]}]}
//
// A session belongs to the model that it was learned on: another router, tokenizer or configuration is refused.
#pragma once

#include <filesystem>
#include <string>

#include "memory/manifest.h"
#include "memory/result.h"
#include "models/config.h"
#include "router/router.h"

namespace pointsman {

std::string SessionToJson(const SessionVectors& session, const Fingerprint& model);

// Errors: kCorrupt (not a session, or a number out of place: says which), kMismatch (learned on another model: names
// both values). `name` stands for the text in messages.
Result<SessionVectors> SessionFromJson(const std::string& text, const std::string& name, const MoeConfig& config,
                                       const Fingerprint& model);

// Replaces the file in one step.
Status SaveSession(const std::filesystem::path& path, const SessionVectors& session, const Fingerprint& model);
Result<SessionVectors> LoadSession(const std::filesystem::path& path, const MoeConfig& config,
                                   const Fingerprint& model);

}  // namespace pointsman
