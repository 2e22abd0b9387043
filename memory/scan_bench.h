// Measurements behind `pointsman bench scan`: how close the exact scan comes to the time that merely reading its bytes
// takes on this machine, now. Runs on the calling thread; takes a second or so.
#pragma once

#include <cstdint>

#include "memory/layer_index.h"

namespace pointsman {

// Best of several passes of a streaming read (64-bit sums) over a buffer larger than the last-level cache, in GB/s.
double MeasureReadBandwidth();

struct ScanBenchSpec {
  uint64_t keys = 100000;
  uint32_t dim = 64;
  uint32_t batch = 1;  // queries a call
  uint32_t k = 16;
  uint64_t seed = 1;
  double seconds = 0.5;  // how long to repeat; medians are reported
  ScanKernel kernel = ScanKernel::kAuto;
};

struct ScanBenchRun {
  ScanBenchSpec spec;
  const char* kernel = "";      // that ran
  double bandwidth_gb_s = 0;    // streaming read, measured between the calls
  double bytes_per_key = 0;     // code and scale
  double seconds_per_call = 0;  // median
  double queries_per_s = 0;
  double gb_s = 0;             // index bytes over the time of a call
  double bandwidth_ratio = 0;  // time of a call over index bytes / bandwidth; the goal at batch 1 is 1.3
  double recall = 0;           // of the k, against fp32 keys
  double build_s = 0;          // quantising the keys
};

// Random unit keys and queries, no projection. Streaming reads and calls take turns, so that both see the same machine
// and every call finds its index evicted from the caches, as it is when 16 layers take turns.
ScanBenchRun BenchScan(const ScanBenchSpec& spec);

}  // namespace pointsman
