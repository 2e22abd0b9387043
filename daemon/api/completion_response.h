// The answers of /v1/completions and /v1/chat/completions, whole and as chunks of a stream: OpenAI's shapes and a
// member "pointsman" with what routing did. Pure functions: any thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "daemon/engine/engine.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

// What all answers of one request have in common.
struct CompletionHead {
  bool chat = false;
  std::string id;  // "cmpl-..." or "chatcmpl-..."
  int64_t created = 0;
  std::string model;
  bool logprobs = false;
};

// One choice as it grows.
struct ChoiceState {
  uint32_t index = 0;
  std::string text;                 // with the prompt in front, for `echo`
  std::vector<TokenOutput> tokens;  // kept for logprobs and explain only
  uint32_t token_count = 0, open_tokens = 0;
  double gate_sum = 0, confidence_sum = 0;
  const char* finish_reason = nullptr;  // null: goes on
  CompletionTask::Done done;

  // Notes one token; keeps it whole if `keep`.
  void Add(const TokenOutput& token, bool keep);
};

struct RoutingSummary {
  std::string memory;  // empty: frozen
  uint64_t generation = 0;
  std::string session;
  bool shadow = false;
  uint64_t seed = 0;
};

nlohmann::json UsageJson(uint64_t prompt_tokens, uint64_t completion_tokens);
// Means over all choices' tokens; times of the slowest choice.
nlohmann::json SummaryJson(const RoutingSummary& routing, std::span<const ChoiceState> choices);

// `explain` of each choice may be null.
nlohmann::json CompletionJson(const CompletionHead& head, std::span<const ChoiceState> choices,
                              std::span<const nlohmann::json> explain, uint64_t prompt_tokens,
                              const RoutingSummary& routing, const Tokenizer& tokenizer);

// A chunk: `text` new in choice `index`; `tokens` are those it came from. finish_reason null: goes on.
nlohmann::json ChunkJson(const CompletionHead& head, uint32_t index, std::string_view text,
                         std::span<const TokenOutput> tokens, const char* finish_reason, bool first,
                         const Tokenizer& tokenizer);
// The last chunk of a stream with include_usage: no choices.
nlohmann::json UsageChunkJson(const CompletionHead& head, uint64_t prompt_tokens, std::span<const ChoiceState> choices);

// One server-sent event with this data, as it goes over the wire.
std::string ServerSentEvent(const nlohmann::json& data);

}  // namespace pointsman
