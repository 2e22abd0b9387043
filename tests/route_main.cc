// The C++ side of test_python_core.py:
//
//   pointsman_route make DIR KIND VERDICT      a random memory: KIND delta, logits or assignments
//   pointsman_route route DIR LAYER ROWS       stdin: tokens i32 [T], hidden f32 [T, H], logits f32 [T, E] of one
//   sequence;
//                                              stdout: gate f32 [T], logits f32 [T, E]
//
// Exits with 1 and one line on stderr when anything fails.
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "router/test_memory.h"

namespace pointsman {
namespace {

int Fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  return 1;
}

template <typename T>
bool Read(std::vector<T>& values) {
  return std::fread(values.data(), sizeof(T), values.size(), stdin) == values.size();
}

void Write(std::span<const float> values) { std::fwrite(values.data(), sizeof(float), values.size(), stdout); }

int Make(const std::string& directory, const std::string& kind, const std::string& verdict) {
  const ValueKind value_kind = kind == "logits"        ? ValueKind::kLogits
                               : kind == "assignments" ? ValueKind::kAssignments
                                                       : ValueKind::kDelta;
  const auto tables = MakeTables(testing::RandomMemoryTables(11, value_kind));
  const Status written = testing::WriteMemory(directory, *tables, verdict);
  return written.ok() ? 0 : Fail(written.error().message);
}

int Route(const std::string& directory, int32_t layer, size_t rows) {
  const auto memory = Memory::Open(directory, {});
  if (!memory.ok()) return Fail(memory.error().message);
  const auto& tables = memory.value()->tables();
  std::vector<int32_t> tokens(rows);
  std::vector<float> hidden(rows * tables.layers.front().keys.hidden), logits(rows * tables.layers.front().experts);
  if (!Read(tokens) || !Read(hidden) || !Read(logits)) return Fail("stdin ended early");
  Router router;
  const std::vector<uint32_t> slots(rows, router.AddSlot({.tables = {memory.value(), &tables}, .session = nullptr}));
  std::vector<uint32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), 0);
  auto step = router.BeginStep(slots, positions, tokens);
  if (!step.ok()) return Fail(step.error().message);
  const Status routed = router.Route(step.value(), layer, hidden, logits);
  if (!routed.ok()) return Fail(routed.error().message);
  Write(step.value().gate);
  Write(logits);
  return 0;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (argc == 5 && what == "make") return pointsman::Make(argv[2], argv[3], argv[4]);
  if (argc == 5 && what == "route")
    return pointsman::Route(argv[2], std::atoi(argv[3]), std::strtoull(argv[4], nullptr, 10));
  return pointsman::Fail("usage: pointsman_route make DIR KIND VERDICT | route DIR LAYER ROWS");
}
