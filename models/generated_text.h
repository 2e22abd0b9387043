// One text in the making: takes logits, gives tokens and the text that became final, and knows when it ends. What
// Generate, GenerateBatch and the daemon's engine share. One thread at a time.
//
//   GeneratedText text(model, options);
//   while (!text.ended()) {
//     logits = ...;                              // of the prompt, then of each token that Take returned
//     const int32_t token = text.Take(logits);   // -1: the model's end token, which is no part of the text
//     Send(token, text.Release());
//   }
//   Send(-1, text.ReleaseRest());
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/generate.h"
#include "models/text_stream.h"

namespace pointsman {

class GeneratedText {
 public:
  // Of `options`: max_tokens, temperature, top_p, seed, ignore_end and stop. The model is borrowed.
  GeneratedText(const MoeModel& model, const GenerateOptions& options);

  // An end token, a stop string or max_tokens; or End was called.
  bool ended() const { return ended_; }
  const std::vector<int32_t>& tokens() const { return result_.tokens; }
  const std::string& text() const { return stream_.text(); }

  // The next token, sampled from logits [V]; -1 where the text ends instead. REQUIRES: not ended.
  int32_t Take(std::span<const float> logits);
  // What became final since the last call: whole characters, nothing that may still turn into a stop string. The view
  // lives until the next call.
  std::string_view Release() { return stream_.Release(result_.finish_reason == FinishReason::kStop); }
  std::string_view ReleaseRest() { return stream_.Release(true); }

  // Ends it here, whatever it would go on with; a text that was stopped stays so.
  void End(FinishReason reason);
  // REQUIRES: nothing but destruction follows.
  Generation Finish();

 private:
  const MoeModel& model_;
  int64_t max_tokens_;
  double temperature_, top_p_;
  bool ignore_end_;
  std::mt19937_64 random_;
  TextStream stream_;
  Generation result_;
  bool ended_;
};

}  // namespace pointsman
