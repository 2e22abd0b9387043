// Several texts continued at once: one forward pass a step for all of them, which is what makes many short generations
// fast (a step of one row is mostly the cost of starting the products).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "models/generate.h"

namespace pointsman {

struct BatchPrompt {
  std::vector<int32_t> tokens;
  uint64_t seed = 0;  // of this text's sampling
  uint32_t slot = 0;  // router slot of this text; the hook must expect one a row
};

// Continues every prompt, in order: the prompts are read in one pass, then every text that goes on gets one token a
// pass. Of `options`: max_tokens, temperature, top_p, ignore_end, stop and hook. `enough`, if given, sees a text after
// each of its new tokens; true ends it there (kStop). A row's text is what Generate gives for its prompt and seed, up
// to the rounding of batched products. Errors: Generate's. Threads: as Generate.
Result<std::vector<Generation>> GenerateBatch(const MoeModel& model, std::span<const BatchPrompt> prompts,
                                              const GenerateOptions& options,
                                              const std::function<bool(std::string_view text)>& enough = {});

}  // namespace pointsman
