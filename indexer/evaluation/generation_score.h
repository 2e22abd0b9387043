// What a variant's own continuations of held-out documents are worth: how often they say what the document says, and
// how much they repeat themselves. A gain in loss need not show here (kNN-LM's is known not to), so both are reported.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "indexer/evaluation/statistics.h"

namespace pointsman {

inline constexpr uint64_t kMatchTokens = 16;

struct GenerationScore {
  std::string variant;                // "truth": the documents' own continuations, for comparison
  std::optional<double> temperature;  // 0 = greedy; absent for truth
  uint64_t prompts = 0;
  uint64_t tokens = 0;                      // generated, all prompts; a variant may end a text early
  std::optional<double> match;              // share of the first kMatchTokens tokens that are the document's own
  std::optional<Interval> match_vs_frozen;  // 95 %, of match minus frozen's at this temperature, by document
  std::optional<double> prefix;             // mean number of tokens before the first that is not the document's own
  double repeated_4grams = 0;               // share of a text's 4-grams that it had already, over all texts
  std::array<double, 3> distinct{};         // different 1-, 2-, 3-grams / all of them, over all texts together
};

nlohmann::json ToJson(std::span<const GenerationScore> scores);  // "generation" in schemas/eval.schema.json
// A table with its explanation; empty without scores.
std::string ToTable(std::span<const GenerationScore> scores);

}  // namespace pointsman
