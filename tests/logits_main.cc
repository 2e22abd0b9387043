// The C++ side of test_model_parity.py and of the hosts' tests: reads token ids, writes raw fp32 logits, and prints
// greedy continuations.
//
//   pointsman_logits MODEL_DIR IDS LOGITS [GREEDY_TOKENS [MEMORY [--shadow]]]
//
// IDS: text, one sequence of ids a line. LOGITS: for each line [T, V] fp32, one after another. With GREEDY_TOKENS > 0,
// prints one line a sequence: its greedy continuation. --shadow: the memory is computed and changes nothing. Exits with
// 1 and one line on stderr when anything fails.
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "memory/memory.h"
#include "models/generate.h"
#include "models/model.h"
#include "models/router_hook.h"

namespace pointsman {
namespace {

int Fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  return 1;
}

std::vector<std::vector<int32_t>> ReadSequences(const std::string& path) {
  std::vector<std::vector<int32_t>> sequences;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    sequences.emplace_back();
    for (int32_t id; words >> id;) sequences.back().push_back(id);
  }
  return sequences;
}

// The tables of the memory at `path`, checked against the model; null for an empty path.
Result<std::shared_ptr<const RoutingTables>> TablesFor(const MoeModel& model, const std::string& path) {
  if (path.empty()) return std::shared_ptr<const RoutingTables>();
  POINTSMAN_TRY(const std::shared_ptr<const Memory> memory, Memory::Open(path, {}));
  POINTSMAN_TRY([[maybe_unused]] const std::string warning, memory->CheckFingerprint(model.fingerprint()));
  return std::shared_ptr<const RoutingTables>(memory, &memory->tables());
}

// Every sequence is a text of its own to the gate: it gets a new slot.
class TextRouting {
 public:
  TextRouting(std::shared_ptr<const RoutingTables> tables, bool shadow) : tables_(std::move(tables)), shadow_(shadow) {}
  uint32_t NewSlot() {
    return tables_ == nullptr
               ? 0
               : router_.AddSlot({.tables = tables_, .session = nullptr, .strength = 1.0f, .shadow = shadow_});
  }
  RouterHook* hook() { return tables_ == nullptr ? nullptr : &hook_; }
  Status status() const { return hook_.status(); }

 private:
  std::shared_ptr<const RoutingTables> tables_;
  bool shadow_;
  Router router_;
  RouterHook hook_{router_};
};

int Main(const std::string& directory, const std::string& ids_path, const std::string& logits_path, int greedy,
         const std::string& memory, bool shadow) {
  TuneRuntime();
  const at::NoGradGuard no_grad;
  auto model = MoeModel::Load(directory);
  if (!model.ok()) return Fail(model.error().message);
  auto tables = TablesFor(*model.value(), memory);
  if (!tables.ok()) return Fail(tables.error().message);
  TextRouting routing(tables.value(), shadow);
  std::ofstream out(logits_path, std::ios::binary);
  for (const std::vector<int32_t>& sequence : ReadSequences(ids_path)) {
    const at::Tensor ids = at::tensor(sequence).to(at::kLong).view({1, -1});
    const at::Tensor logits =
        model.value()->Forward(ids, {.hook = routing.hook(), .slots = {routing.NewSlot()}}).contiguous();
    out.write(reinterpret_cast<const char*>(logits.const_data_ptr<float>()), logits.numel() * sizeof(float));
    if (greedy == 0) continue;
    auto generated =
        Generate(*model.value(), sequence, {.max_tokens = greedy, .hook = routing.hook(), .slot = routing.NewSlot()});
    if (!generated.ok()) return Fail(generated.error().message);
    for (int32_t token : generated.value().tokens) std::printf("%d ", token);
    std::printf("\n");
  }
  if (!routing.status().ok()) return Fail(routing.status().error().message);
  out.close();
  return out ? 0 : Fail(logits_path + ": could not be written");
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  const bool shadow = argc == 7 && std::string(argv[6]) == "--shadow";
  if (argc < 4 || argc > (shadow ? 7 : 6)) {
    return pointsman::Fail("usage: pointsman_logits MODEL_DIR IDS LOGITS [GREEDY_TOKENS [MEMORY [--shadow]]]");
  }
  return pointsman::Main(argv[1], argv[2], argv[3], argc > 4 ? std::atoi(argv[4]) : 0, argc > 5 ? argv[5] : "", shadow);
}
