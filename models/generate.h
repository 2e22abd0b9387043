// Text generation with the key-value cache: greedy or nucleus sampling, stop tokens, stop strings, streaming.
// Pure but for the hook: any number of threads may generate from one model, each with its own hook.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory/result.h"
#include "models/model.h"

namespace pointsman {

struct GenerateOptions {
  int64_t max_tokens = 64;
  double temperature = 0;   // 0: greedy, ties to the lowest id
  double top_p = 1;         // (0, 1]: sample from the smallest set of tokens with at least this probability
  uint64_t seed = 0;        // of the sampling; the same seed gives the same tokens on every machine's same logits
  bool ignore_end = false;  // go on past end tokens: runs of a fixed length, for measurements
  std::vector<std::string> stop = {};  // the text ends before the first of them
  RoutingHook* hook = nullptr;         // borrowed
  uint32_t slot = 0;                   // router slot of this sequence
  // Called with all tokens so far before the prompt is read and after every `context_interval` new tokens: the place
  // where online rerouting learns. It may fill `cache`, which holds what was read of the context, with the whole
  // context and return the logits after it, [1, 1, V]: generation then goes on from there. Undefined: the cache is as
  // it was.
  std::function<Result<at::Tensor>(std::span<const int32_t> context, KvCache& cache)> on_context = {};
  int64_t context_interval = 128;
  // Called with every new token and the text that became final with it: whole UTF-8 characters, nothing that may still
  // turn into a stop string. The last call may have no token (-1) and carry what was held back. false ends generation.
  std::function<bool(int32_t token, std::string_view text)> on_token = {};
};

enum class FinishReason {
  kStop,
  kLength,
  kCancelled
};                                                  // kStop: end token or stop string; kLength: limit or context full
const char* FinishReasonName(FinishReason reason);  // "stop", "length", "cancelled"

struct Generation {
  std::vector<int32_t> tokens;  // without the end token; with the tokens of a stop string
  std::string text;             // of tokens, cut before a stop string; may end inside a UTF-8 character at kLength
  FinishReason finish_reason = FinishReason::kLength;
};

// Errors: kInvalidArgument (an empty prompt, a token outside the vocabulary, a prompt longer than the context, options
// out of range), the hook's first error, kInternal (LibTorch ran out of memory).
Result<Generation> Generate(const MoeModel& model, std::span<const int32_t> prompt, const GenerateOptions& options);

// What Generate refuses as kInvalidArgument, without generating.
Status CheckRequest(const MoeConfig& config, std::span<const int32_t> prompt, const GenerateOptions& options);

// The next token from `logits` [V]. Advances `random` by one draw if temperature > 0.
int32_t SampleToken(std::span<const float> logits, double temperature, double top_p, std::mt19937_64& random);

}  // namespace pointsman
