// A memory of OLMoE-1B-7B's widths with random contents, on disk, for measurements of hosts that open one:
//
//   pointsman_random_memory DIR LAYERS ENTRIES
//
// Its gate is always open, so that every row is searched and changed. Its fingerprint is nobody's.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tools/bench/random_memory.h"

namespace pointsman {
namespace {

Status Write(const std::string& directory, int64_t layers, uint64_t entries) {
  MoeConfig shape;
  shape.vocab_size = 50304;
  shape.hidden_size = 2048;
  shape.num_layers = layers;
  shape.num_experts = 64;
  shape.experts_per_token = 8;
  return WriteRandomMemory(directory, shape, {.rows = entries});
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: pointsman_random_memory DIR LAYERS ENTRIES\n");
    return 2;
  }
  const auto written = pointsman::Write(argv[1], std::atoll(argv[2]), std::strtoull(argv[3], nullptr, 10));
  if (!written.ok()) std::fprintf(stderr, "pointsman_random_memory: %s\n", written.error().message.c_str());
  return written.ok() ? 0 : 1;
}
