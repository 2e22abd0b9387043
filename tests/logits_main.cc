// The C++ side of test_model_parity.py: reads token ids, writes raw fp32 logits, and prints greedy continuations.
//
//   pointsman_logits MODEL_DIR IDS LOGITS [GREEDY_TOKENS]
//
// IDS: text, one sequence of ids a line. LOGITS: for each line [T, V] fp32, one after another. With GREEDY_TOKENS > 0,
// prints one line a sequence: its greedy continuation. Exits with 1 and one line on stderr when anything fails.
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "models/generate.h"
#include "models/model.h"

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

int Main(const std::string& directory, const std::string& ids_path, const std::string& logits_path, int greedy) {
  TuneRuntime();
  const at::NoGradGuard no_grad;
  auto model = MoeModel::Load(directory);
  if (!model.ok()) return Fail(model.error().message);
  std::ofstream out(logits_path, std::ios::binary);
  for (const std::vector<int32_t>& sequence : ReadSequences(ids_path)) {
    const at::Tensor ids = at::tensor(sequence).to(at::kLong).view({1, -1});
    const at::Tensor logits = model.value()->Forward(ids, {}).contiguous();
    out.write(reinterpret_cast<const char*>(logits.const_data_ptr<float>()), logits.numel() * sizeof(float));
    if (greedy == 0) continue;
    auto generated = Generate(*model.value(), sequence, {.max_tokens = greedy});
    if (!generated.ok()) return Fail(generated.error().message);
    for (int32_t token : generated.value().tokens) std::printf("%d ", token);
    std::printf("\n");
  }
  out.close();
  return out ? 0 : Fail(logits_path + ": could not be written");
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) return pointsman::Fail("usage: pointsman_logits MODEL_DIR IDS LOGITS [GREEDY_TOKENS]");
  return pointsman::Main(argv[1], argv[2], argv[3], argc == 5 ? std::atoi(argv[4]) : 0);
}
