// pointsman generate: continues a prompt, routed by a memory if one is given; --explain says who moved which experts.
#include "models/generate.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <iostream>
#include <iterator>
#include <optional>

#include "adapt/online_rerouting.h"
#include "adapt/session_file.h"
#include "memory/file_layer.h"
#include "memory/memory.h"
#include "models/model.h"
#include "models/router_hook.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/explain.h"
#include "tools/rewire_settings.h"

namespace pointsman {
namespace {

Result<std::string> ReadPrompt(const std::string& given) {
  std::string prompt = given;
  if (given == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  if (prompt.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--prompt: there is no text to go on from; give at least one character"};
  }
  return prompt;
}

// The memory, checked against the model it is asked to route.
Result<std::shared_ptr<const Memory>> OpenFor(const MoeModel& model, const std::filesystem::path& directory) {
  POINTSMAN_TRY(auto memory, Memory::Open(directory, {}));
  POINTSMAN_TRY(const std::string warning, memory->CheckFingerprint(model.fingerprint()));
  if (!warning.empty()) spdlog::warn("{}", warning);
  if (const VerdictSummary& verdict = memory->manifest().verdict; verdict.verdict != "adopt" || verdict.stale) {
    spdlog::warn("{}: its verdict is {}{}", directory.string(), verdict.verdict, verdict.stale ? " (stale)" : "");
  }
  return memory;
}

// Where the vectors of this request begin: in the session's file, if there is one yet.
Result<SessionVectors> StartOf(const Settings& settings, const MoeModel& model) {
  const std::filesystem::path path = settings.Path("session");
  if (path.empty() || !FileSystem::Real().Exists(path)) return SessionVectors{};
  return LoadSession(path, model.config(), model.fingerprint());
}

}  // namespace

Result<Output> RunGenerate(const Settings& settings) {
  if (settings.Flag("explain") && !settings.Has("memory")) {
    return Error{ErrorCode::kInvalidArgument, "--explain: there is nothing to explain without a memory; add --memory"};
  }
  if (settings.Has("session") && !settings.Flag("rewire")) {
    return Error{ErrorCode::kInvalidArgument, "--session: a session is what online rerouting learns; add --rewire"};
  }
  POINTSMAN_TRY(const std::string prompt, ReadPrompt(settings.Text("prompt")));
  at::set_num_threads(ThreadsOf(settings));
  POINTSMAN_TRY(const auto model, MoeModel::Load(settings.Path("model")));
  const std::vector<int32_t> prompt_tokens = model->tokenizer().Encode(prompt);

  GenerateOptions options;
  options.max_tokens = settings.Integer("max-tokens");
  options.temperature = settings.Real("temperature");
  options.top_p = settings.Real("top-p");
  options.seed = static_cast<uint64_t>(settings.Integer("seed"));
  options.stop = settings.Texts("stop");

  Router router;
  RouterHook hook(router);
  std::optional<Explainer> explainer;
  MemoryBinding binding;
  if (settings.Has("memory")) {
    POINTSMAN_TRY(const auto memory, OpenFor(*model, settings.Path("memory")));
    // The tables are a part of the memory: sharing its ownership keeps both alive.
    binding.tables = std::shared_ptr<const RoutingTables>(memory, &memory->tables());
    binding.strength = static_cast<float>(settings.Real("strength"));
    if (settings.Flag("explain")) explainer.emplace(*model, memory);
  }
  if (binding.tables || settings.Flag("rewire")) {
    options.slot =
        router.AddSlot({.tables = binding.tables, .session = nullptr, .strength = binding.strength, .shadow = false});
    options.hook = &hook;
  }
  std::optional<OnlineRerouting> rerouting;
  if (settings.Flag("rewire")) {
    OnlineReroutingOptions rewire;
    POINTSMAN_TRY(rewire.rerouting, ReroutingOptionsOf(settings));
    POINTSMAN_TRY(rewire.start, StartOf(settings, *model));
    rewire.recompute = settings.Text("rewire-kv") == "recompute";
    rewire.fill_cache = !explainer;  // the first new token is explained by the prompt's pass
    rerouting.emplace(*model, router, hook, options.slot, std::move(rewire));
    options.context_interval = settings.Integer("rewire-interval");
    options.on_context = [&](std::span<const int32_t> context, KvCache& cache) {
      return rerouting->OnContext(context, cache);
    };
  }
  hook.CollectTrace(explainer.has_value());
  options.on_token = [&](int32_t token, std::string_view) {
    if (explainer && token >= 0) explainer->Add(token, hook.step(), hook.TakeTrace());
    return true;
  };

  POINTSMAN_TRY(const Generation generation, Generate(*model, prompt_tokens, options));
  if (settings.Has("session")) {
    POINTSMAN_CHECK_OK(SaveSession(settings.Path("session"), rerouting->vectors(), model->fingerprint()));
  }
  Output output{.json = {{"text", generation.text},
                         {"tokens", generation.tokens},
                         {"prompt_tokens", prompt_tokens},
                         {"finish_reason", FinishReasonName(generation.finish_reason)}},
                .text = prompt + generation.text + "\n",
                .exit_code = 0};
  if (explainer) {
    output.json["explain"] = explainer->Json();
    output.text += "\n" + explainer->Text();
  }
  return output;
}

}  // namespace pointsman
