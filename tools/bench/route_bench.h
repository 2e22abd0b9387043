// Measurements behind `pointsman bench route`: what routing costs beside the model step that it belongs to.
//
// A model of a given shape with random weights decodes one token, again and again, on a filled KV cache: frozen, with a
// memory of entries, and with one of prototypes, in turn, so that all see the same machine. Routing is timed inside the
// real forward pass, where it finds its keys evicted by the layer before. Memories are random but complete: projection
// from H to 64 dimensions, int8 keys and values, open context gate of 100,000 token pairs; prototypes have the router
// delta and token table of a default build, too. Times are those of bench_clock.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/result.h"
#include "models/config.h"

namespace pointsman {

struct RouteBenchSpec {
  MoeConfig shape;
  uint64_t entries = 100'000;  // a layer
  uint32_t prototypes = 2'048;
  int64_t context = 1'024;  // positions in the KV cache. REQUIRES: < shape.max_positions
  int threads = 1;          // of LibTorch; routing itself runs on the calling thread
  int rounds = 9;           // medians are over these
  uint64_t seed = 1;
};

struct RouteBenchRun {
  std::string index;  // "exact": entries; "prototypes"
  uint64_t rows = 0;  // a layer
  double recall = 0;  // of the k nearest stored keys, by brute force in double precision
  double route_s = 0;
  double decode_s = 0;  // the frozen model's step, without routing
  double mixed_s = 0;   // the step with routing in it
  uint64_t bytes = 0;   // of all layers' tables
  double ratio() const { return route_s / decode_s; }
};

struct RouteBenchReport {
  std::vector<RouteBenchRun> runs;
  uint64_t decode_bytes = 0;  // weights that one decode step reads
};

// The shapes that have a name: "olmoe-1b-7b", and "small", which is for tests.
MoeConfig BenchShape(const std::string& name);

// Sets LibTorch's threads. Errors: what Router reports.
Result<RouteBenchReport> BenchRoute(const RouteBenchSpec& spec);

}  // namespace pointsman
