// Measurements behind `pointsman bench build`: the build of a memory's values against two Python scripts that make the
// same values in the same number of steps on the same machine with the same threads (tools/bench/*.py).
//
// The clock of every side runs from the loaded model and tokenised text to finished arrays: capture of the router
// inputs, keys, training, quantisation. It is that of bench_clock.h. Sides take turns, medians are reported, and a side
// whose values reach another loss is an error: it would not be the same work.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "indexer/builder.h"
#include "memory/result.h"

namespace pointsman {

struct BuildBenchOptions {
  CorpusOptions data;                 // model, corpus, seed, max_tokens, threads
  std::string values = "prototypes";  // trained through the loss (the default build); "knn": the published recipe
  uint32_t prototypes = 512;          // a layer
  int rounds = 3;
  std::filesystem::path python;   // with torch, transformers and faiss
  std::filesystem::path scripts;  // the folder of build_plain.py and build_pytorch.py
};

struct BuildBenchSide {
  std::string name;  // "pointsman", "plain", "pytorch"
  double tokens_per_s = 0;
  double cpu_seconds = 0;  // of all threads
  double nll = 0;          // that the finished values reach: held-out text for prototypes, the tokens' own for knn
};

struct BuildBenchReport {
  uint64_t tokens = 0;  // of reference text
  BuildBenchSide ours;
  std::vector<BuildBenchSide> baselines;
};

// Errors: those of the corpus and the model; kNotFound (python or script), kInternal (a script failed, or reached
// another loss).
Result<BuildBenchReport> BenchBuild(const BuildBenchOptions& options);

}  // namespace pointsman
