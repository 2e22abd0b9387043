// llama.cpp's side of `pointsman verify --host llamacpp`: reads the runtime's windows of text and writes down what the
// routers were given and gave. The comparison is python/pointsman/drift.py's, as for the other hosts.
//
//   pointsman_llama_verify --model GGUF --memory MEM --work DIR [--half-cache] [--threads N]
//
// DIR/work.json: {"windows": [{"inputs", "targets"}]}, a target of -100 does not count. Each window is read alone and
// three times: frozen, in shadow mode and with the memory. Written into DIR, for each MoE layer over all tokens, fp32:
// layer_N.host_hidden [T, H], layer_N.host_before and layer_N.host_after [T, E]; last host.json, what was measured.
// Prints {"error": null}, or what is wrong: a GGUF of another model is refused before anything is read.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hosts/llamacpp/gguf_identity.h"
#include "hosts/llamacpp/llama_handles.h"
#include "hosts/llamacpp/llama_routing.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

using nlohmann::json;

constexpr uint32_t kRows = 512;  // of one llama_decode: llama.cpp's default micro-batch

struct Settings {
  std::filesystem::path model, memory, work;
  bool half_cache = false;
  int32_t threads = 1;
};

struct Window {
  std::vector<int32_t> inputs, targets;
};

std::vector<Window> ReadWindows(const std::filesystem::path& work) {
  std::vector<Window> windows;
  const json document = json::parse(std::ifstream(work / "work.json"));
  for (const json& window : document.at("windows")) {
    windows.push_back({.inputs = window.at("inputs").get<std::vector<int32_t>>(),
                       .targets = window.at("targets").get<std::vector<int32_t>>()});
  }
  return windows;
}

// Nats of `target`; 0 where it does not count.
double LossOf(std::span<const float> logits, int32_t target) {
  if (target < 0) return 0;
  const double peak = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float value : logits) total += std::exp(value - peak);
  return peak + std::log(total) - logits[static_cast<size_t>(target)];
}

// One file of a layer's rows after another, kept open.
class LayerFiles {
 public:
  explicit LayerFiles(std::filesystem::path folder) : folder_(std::move(folder)) {}

  void Append(int32_t layer, const char* what, std::span<const float> values) {
    const std::string name = "layer_" + std::to_string(layer) + ".host_" + what;
    auto& file = files_.try_emplace(name, folder_ / name, std::ios::binary).first->second;
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
  }
  Status Close() {
    for (auto& [name, file] : files_) {
      file.close();
      if (!file) return Error{ErrorCode::kIo, (folder_ / name).string() + ": could not be written"};
    }
    return {};
  }

 private:
  std::filesystem::path folder_;
  std::map<std::string, std::ofstream> files_;
};

struct Pass {
  double nll = 0;
  std::string digest;  // of all logits: themselves, they are a gigabyte for a long window of a large vocabulary
};

Result<Pass> Read(const Window& window, llama_context* context, LlamaRouting& routing) {
  llama_memory_clear(llama_get_memory(context), true);
  const auto vocabulary = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context))));
  Pass pass;
  Xxh3Stream digest;
  for (size_t start = 0; start < window.inputs.size(); start += kRows) {
    const auto part = std::span(window.inputs).subspan(start, std::min<size_t>(kRows, window.inputs.size() - start));
    const SequenceBatch batch(part, static_cast<uint32_t>(start), /*all_outputs=*/true);
    POINTSMAN_TRY(const int32_t code, routing.Decode(context, batch.get()));
    if (code != 0) return Error{ErrorCode::kInternal, "llama_decode gave " + std::to_string(code)};
    for (size_t row = 0; row < part.size(); ++row) {
      const std::span logits(llama_get_logits_ith(context, static_cast<int32_t>(row)), vocabulary);
      pass.nll += LossOf(logits, window.targets[start + row]);
      digest.Update(std::as_bytes(logits));
    }
  }
  pass.digest = digest.Hex();
  return pass;
}

Result<json> Run(const Settings& settings) {
  POINTSMAN_TRY(const GgufIdentity identity, ReadGgufIdentity(settings.model));
  POINTSMAN_TRY(const GgufMemory memory, OpenMemoryFor(settings.model, settings.memory, {.allow_rejected = true}));
  const std::vector<Window> windows = ReadWindows(settings.work);
  size_t longest = 0;
  for (const Window& window : windows) longest = std::max(longest, window.inputs.size());

  POINTSMAN_TRY(const LlamaModel model, LoadLlama(settings.model));
  POINTSMAN_TRY(const auto routing, LlamaRouting::Create(model.get()));
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(longest);
  params.n_batch = params.n_ubatch = kRows;
  params.n_threads = params.n_threads_batch = settings.threads;
  if (!settings.half_cache) UseExactCache(params);
  POINTSMAN_CHECK_OK(routing->Install(params));
  POINTSMAN_TRY(const LlamaContext context, MakeContext(model.get(), params));

  LayerFiles files(settings.work);
  double frozen_nll = 0, memory_nll = 0;
  bool silent_is_identical = true;
  for (const Window& window : windows) {
    routing->Unbind(0);
    POINTSMAN_TRY(const Pass frozen, Read(window, context.get(), *routing));
    POINTSMAN_CHECK_OK(routing->Bind(0, {.tables = memory.tables, .session = nullptr, .strength = 1, .shadow = true}));
    POINTSMAN_TRY(const Pass silent, Read(window, context.get(), *routing));
    POINTSMAN_CHECK_OK(routing->Bind(0, {.tables = memory.tables, .session = nullptr}));
    routing->SetRecorder(
        [&](int32_t layer, std::span<const float> hidden, std::span<const float> before, std::span<const float> after) {
          files.Append(layer, "hidden", hidden);
          files.Append(layer, "before", before);
          files.Append(layer, "after", after);
        });
    POINTSMAN_TRY(const Pass routed, Read(window, context.get(), *routing));
    routing->SetRecorder(nullptr);
    silent_is_identical &= silent.digest == frozen.digest;
    frozen_nll += frozen.nll;
    memory_nll += routed.nll;
  }
  POINTSMAN_CHECK_OK(files.Close());
  return json{{"host", "llamacpp"},
              {"version", std::string("ggml ") + ggml_version()},
              {"dtype", identity.expert_type + (settings.half_cache ? ", fp16 cache" : "")},
              {"frozen", frozen_nll},
              {"memory", memory_nll},
              {"silent_is_identical", silent_is_identical}};
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app{"What a memory does in llama.cpp: a child of pointsman verify --host llamacpp"};
  app.add_option("--model", settings.model, "a GGUF file")->required();
  app.add_option("--memory", settings.memory, "a memory that was built for this model")->required();
  app.add_option("--work", settings.work, "the folder with work.json")->required();
  app.add_flag("--half-cache", settings.half_cache, "keys and values in fp16, llama.cpp's default");
  app.add_option("--threads", settings.threads, "of llama.cpp");
  CLI11_PARSE(app, argc, argv);
  QuietLlama();
  const auto result = Run(settings);
  json answer = {{"error", nullptr}};
  if (!result.ok()) {
    answer["error"] = result.error().message;
  } else if (!(std::ofstream(settings.work / "host.json") << result.value())) {
    answer["error"] = (settings.work / "host.json").string() + ": could not be written";
  }
  std::printf("%s\n", answer.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  return 0;
}

}  // namespace
}  // namespace pointsman

int main(int argc, char** argv) { return pointsman::Main(argc, argv); }
