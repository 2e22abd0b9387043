// POST /v1/completions and /v1/chat/completions: what the body asks for, checked field by field. Names are OpenAI's;
// memory, strength, session, rewire, explain and shadow are ours.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "adapt/rerouting_options.h"
#include "daemon/api_error.h"
#include "models/tokenizer/tokenizer.h"

namespace pointsman {

inline constexpr size_t kMostChoices = 16;  // prompts x n of one request

struct RewireFields {
  ReroutingOptions rerouting;
  int64_t interval = 128;
  bool recompute = false;
};

struct CompletionRequest {
  bool chat = false;
  std::string model;
  std::vector<std::vector<int32_t>> prompts;  // tokens; one for chat
  std::vector<std::string> prompt_texts;      // for `echo`
  int64_t n = 1;
  uint64_t seed = 0;
  bool ignore_end = false;  // go on past end tokens
  bool seed_given = false;  // else one is drawn for the request and told in the answer
  std::vector<std::string> stop;
  bool logprobs = false;  // tell the chosen token's
  int top_logprobs = 0;
  int64_t max_tokens = 16;  // OpenAI's default for completions; chat: up to the context's end
  double temperature = 1, top_p = 1;
  bool stream = false, include_usage = false, echo = false;
  bool explain = false;

  enum class Memory : uint8_t { kDefault, kFrozen, kNamed };
  Memory memory_choice = Memory::kDefault;
  std::string memory;
  std::optional<double> strength;
  std::string session;  // empty: none
  std::optional<RewireFields> rewire;
  bool shadow = false;
};

// Turns chat messages into tokens: the model's template, or the default one.
using ChatEncoder = std::function<std::variant<std::vector<int32_t>, ApiError>(const nlohmann::json& messages,
                                                                               const nlohmann::json& all)>;

struct RequestLimits {
  int64_t context = 0;  // the model's
  int64_t vocabulary = 0;
};

std::variant<CompletionRequest, ApiError> ParseCompletionRequest(const nlohmann::json& body, bool chat,
                                                                 const Tokenizer& tokenizer, const ChatEncoder& encode,
                                                                 const RequestLimits& limits);

// {"steps", "lr", "interval", "layers", "guard", "stop", "rule", "kv"}; `true` is all defaults. `path` prefixes field
// names.
std::variant<std::optional<RewireFields>, ApiError> ParseRewire(const nlohmann::json* value, const std::string& path);

}  // namespace pointsman
