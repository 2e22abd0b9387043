// The normaliser of tokenizer.json: Unicode normal forms, one after another. Immutable, thread-safe.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"

namespace pointsman {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

class Normalizer {
 public:
  // `spec`: the "normalizer" value (null, NFC, NFD, NFKC, NFKD, or a Sequence of them). kUnsupported otherwise.
  static Result<Normalizer> Create(const nlohmann::json& spec, const std::string& file);

  // REQUIRES: text is valid UTF-8.
  std::string Normalize(std::string text) const;
  // Names of the forms in order, for the fingerprint.
  std::string Canonical() const;

 private:
  std::vector<NormalForm> forms_;
};

}  // namespace pointsman
