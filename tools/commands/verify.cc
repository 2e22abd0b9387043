// pointsman verify: every byte of a memory against its checksums; --repair rebuilds what derives from the truth. With
// --host: whether the memory does in another engine what it does in our runtime.
#include <fmt/format.h>

#include <cmath>

#include "memory/memory.h"
#include "tools/command.h"
#include "tools/host_check.h"

namespace pointsman {
namespace {

using nlohmann::json;

constexpr int kUnsound = 1;

// The writer's lock ends with this function: Verify() takes it again.
Status Repair(const std::filesystem::path& directory) {
  POINTSMAN_TRY(const auto writer, MemoryWriter::Open(directory, {}));
  return writer->RebuildDerived();
}

std::string Line(const Finding& finding) {
  // A problem that names a file below `file` says more than `file`.
  if (finding.problem.starts_with(finding.file)) return finding.problem + "\n";
  return fmt::format("{}: {}\n", finding.file, finding.problem);
}

// What hosts may differ by and still count as doing the same, nats a token.
constexpr double kGainBound = 0.002;

Result<Output> VerifyHost(const Settings& settings) {
  if (!settings.Has("model")) {
    return Error{ErrorCode::kInvalidArgument, "--host: which model? Add --model DIR, as the host loads it"};
  }
  const bool is_llama = settings.Text("host") == "llamacpp";
  if (is_llama != settings.Has("gguf") || (!is_llama && settings.Flag("half-cache"))) {
    return Error{ErrorCode::kInvalidArgument,
                 is_llama ? "--host llamacpp: which file? Add --gguf FILE, the model of --model as llama.cpp loads it "
                            "(hosts/llamacpp/gguf_from_hf.py and llama.cpp's convert_hf_to_gguf.py write one)"
                          : "--gguf and --half-cache: of --host llamacpp only"};
  }
  if (is_llama && settings.Text("dtype") != "float32") {
    return Error{ErrorCode::kInvalidArgument, "--dtype: the weights of --gguf have their types; leave --dtype out"};
  }
  POINTSMAN_TRY(json host, CheckHost({.host = settings.Text("host"),
                                      .memory = settings.Path("memory"),
                                      .model = settings.Path("model"),
                                      .gguf = settings.Path("gguf"),
                                      .half_cache = settings.Flag("half-cache"),
                                      .dtype = settings.Text("dtype"),
                                      .tokens = static_cast<uint64_t>(settings.Integer("max-tokens")),
                                      .python = settings.Text("python")}));
  const auto number = [](const json& object, const char* name) { return object.at(name).get<double>(); };
  std::string text = fmt::format("{} {}, {}, {} tokens\n{:>5} {:>9} {:>9} {:>11} {:>9} {:>9} {:>14} {:>11}\n",
                                 host["host"].get<std::string>(), host["version"].get<std::string>(),
                                 host["dtype"].get<std::string>(), host["tokens"].get<uint64_t>(), "layer", "searched",
                                 "nearest", "neighbours", "fallback", "experts", "logits, median", "at most");
  for (const json& layer : host["layers"]) {
    text += fmt::format("{:>5} {:>8.1f}% {:>8.2f}% {:>10.2f}% {:>8.2f}% {:>8.2f}% {:>14.1e} {:>11.1e}\n",
                        layer["layer"].get<int>(), 100 * number(layer, "searched"),
                        100 * number(layer, "nearest_changed"), 100 * number(layer, "neighbours_changed"),
                        100 * number(layer, "fallback_changed"), 100 * number(layer, "experts_changed"),
                        number(layer, "logits_median"), number(layer, "logits_max"));
  }
  const bool identical = host["silent_is_identical"].get<bool>();
  const bool carries = identical && std::abs(number(host, "gain_difference")) <= kGainBound;
  host["carries"] = carries;
  text += fmt::format(
      "gain {:+.5f} nats a token there, {:+.5f} in {}: {:.5f} apart (at most {})\n"
      "in shadow mode the model's logits {} their bits\n",
      number(host, "gain"), number(host, "runtime_gain"), host["reference"].get<std::string>(),
      std::abs(number(host, "gain_difference")), kGainBound, identical ? "keep" : "do NOT keep");
  const auto warning = host["warning"].get<std::string>();
  if (!warning.empty()) text += "warning: " + warning + "\n";
  text += carries
              ? "the memory does there what it does here\n"
              : "the memory does NOT do there what it does here: see the columns; bfloat16 or quantised weights, "
                "another version of the model's code, or a host that computes in half precision are the usual causes\n";
  return Output{.json = std::move(host), .text = std::move(text), .exit_code = carries ? 0 : kUnsound};
}

}  // namespace

Result<Output> RunVerify(const Settings& settings) {
  if (settings.Has("host")) return VerifyHost(settings);
  const std::filesystem::path directory = settings.Path("memory");
  POINTSMAN_TRY(std::vector<Finding> findings, Verify(directory));
  std::string text;
  bool repaired = false;
  if (!findings.empty() && settings.Flag("repair")) {
    for (const Finding& finding : findings) text += "found: " + Line(finding);
    POINTSMAN_CHECK_OK(Repair(directory));
    POINTSMAN_TRY(findings, Verify(directory));
    repaired = findings.empty();
  }
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"file", finding.file}, {"problem", finding.problem}});
    text += Line(finding);
  }
  if (findings.empty()) {
    text += fmt::format("{}: {}\n", directory.string(), repaired ? "repaired, and sound now" : "sound");
  } else {
    text +=
        settings.Flag("repair")
            ? fmt::format("{}: not repairable from its truth: restore a copy, or build it again\n", directory.string())
            : fmt::format("{}: damaged; pointsman verify --repair rebuilds what derives from the truth\n",
                          directory.string());
  }
  return Output{.json = {{"sound", findings.empty()}, {"repaired", repaired}, {"findings", std::move(list)}},
                .text = std::move(text),
                .exit_code = findings.empty() ? 0 : kUnsound};
}

}  // namespace pointsman
