// What ties a memory to the model it was built for (memory/manifest.h, Fingerprint).
#pragma once

#include <filesystem>

#include "memory/manifest.h"
#include "memory/result.h"
#include "models/config.h"
#include "models/safetensors.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

// config_sha256     SHA-256 of CanonicalConfig
// router_sha256     SHA-256 of model.layers.N.mlp.gate.weight, N ascending, as little-endian fp32
// tokenizer_sha256  SHA-256 of Tokenizer::CanonicalText
// dtype             the type in which the first router's weight is stored
// experts_sha256    SHA-256 of one line a (layer, expert), ascending: the 32 hex digits of XXH3-128 over the fp32 bytes
//                   of gate_proj [I, H], up_proj [I, H], down_proj [H, I]. Equal for one tensor an expert and for the
//                   fused spelling (gate_up_proj [E, 2I, H], down_proj [E, H, I]).
// Independent of how the tensors are spread over files. Reads all expert weights, on several threads.
// Errors: those of SafetensorsFiles::Get, kCorrupt for a router weight that is not finite.
Result<Fingerprint> ComputeFingerprint(const MoeConfig& config, const SafetensorsFiles& files,
                                       const Tokenizer& tokenizer);

// kMismatch: the tokenizer of `directory` has more tokens than its model.
Status CheckVocabulary(const MoeConfig& config, const Tokenizer& tokenizer, const std::filesystem::path& directory);

}  // namespace pointsman
