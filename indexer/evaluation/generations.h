// Continues held-out documents with a variant and compares what comes out with how they go on (generation_score.h).
// The same prompts and, for sampling, the same random numbers for every variant.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "indexer/evaluation/generation_score.h"
#include "indexer/evaluation/scorer.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/model.h"

namespace pointsman {

struct GenerationPrompt {
  std::vector<int32_t> prompt;
  std::vector<int32_t> truth;  // what follows it: at most kContinuedTokens
  uint64_t document = 0;       // hash
  uint64_t cluster = 0;
};

inline constexpr size_t kContinuedTokens = 64;

// The first window of up to `count` documents, evenly spread over `text`; prompt = its first half. Windows whose second
// half has fewer than kMatchTokens tokens are left out.
std::vector<GenerationPrompt> MakePrompts(const ScoredText& text, size_t count);

struct GenerationOptions {
  double temperature = 0;
  uint64_t seed = 0;
  int threads = 1;
};

// One continuation a prompt, as long as its truth unless the model ends it. `tables` null: the frozen model.
Result<std::vector<std::vector<int32_t>>> Continue(const MoeModel& model, std::span<const GenerationPrompt> prompts,
                                                   const std::shared_ptr<const RoutingTables>& tables,
                                                   const GenerationOptions& options);

// Everything of a score but variant, temperature and match_vs_frozen.
GenerationScore ScoreTexts(std::span<const GenerationPrompt> prompts, std::span<const std::vector<int32_t>> texts);
GenerationScore ScoreTruth(std::span<const GenerationPrompt> prompts);
// The interval of match minus frozen's, both on the same prompts.
Result<Interval> CompareMatches(std::span<const GenerationPrompt> prompts, std::span<const std::vector<int32_t>> texts,
                                std::span<const std::vector<int32_t>> frozen, uint64_t seed);

// Share of a text's n-grams that stood in it before; the parts of several texts are added up.
double RepeatedShare(std::span<const std::vector<int32_t>> texts, size_t n);
// Different n-grams / n-grams, over all texts together.
double DistinctShare(std::span<const std::vector<int32_t>> texts, size_t n);

}  // namespace pointsman
