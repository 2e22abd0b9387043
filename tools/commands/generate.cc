// pointsman generate: continues a prompt, routed by a memory if one is given; --explain says who moved which experts.
#include "models/generate.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <optional>

#include "adapt/online_rerouting.h"
#include "adapt/session_file.h"
#include "indexer/tasks/answers.h"
#include "memory/file_layer.h"
#include "memory/memory.h"
#include "models/explain.h"
#include "models/generate_batch.h"
#include "models/model.h"
#include "models/router_hook.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
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

// What --self-consistency needs, and the pattern; without it nothing.
Result<std::optional<AnswerPattern>> VotingPattern(const Settings& settings) {
  if (settings.Integer("self-consistency") == 1) return std::optional<AnswerPattern>();
  const auto missing = [](const std::string& what) {
    return Error{ErrorCode::kInvalidArgument, "--self-consistency: " + what};
  };
  if (!settings.Has("answer-pattern")) return missing("which answers to count is not known; add --answer-pattern RE");
  if (settings.Real("temperature") == 0) {
    return missing("at temperature 0 all samples are the same; add --temperature 0.7");
  }
  if (settings.Flag("explain")) return missing("--explain follows one text; leave one of the two out");
  POINTSMAN_TRY(AnswerPattern pattern, AnswerPattern::Compile(settings.Text("answer-pattern")));
  return std::optional(std::move(pattern));
}

// `count` samples with seeds options.seed, options.seed + 1, ... Together in batches, unless each one learns from its
// own text on the way (options.on_context).
Result<std::vector<Generation>> Sample(const MoeModel& model, const std::vector<int32_t>& prompt,
                                       GenerateOptions options, Router& router, const MemoryBinding& binding,
                                       int64_t count) {
  constexpr int64_t kBatchRows = 16;
  std::vector<Generation> samples;
  const uint64_t first_seed = options.seed;
  if (options.on_context) {
    for (; static_cast<int64_t>(samples.size()) < count; ++options.seed) {
      POINTSMAN_TRY(Generation sample, Generate(model, prompt, options));
      samples.push_back(std::move(sample));
    }
    return samples;
  }
  std::vector<BatchPrompt> rows;
  for (int64_t i = 0; i < count; ++i) {
    rows.push_back({prompt, first_seed + static_cast<uint64_t>(i), 0});
    if (binding.tables) {
      rows.back().slot =
          router.AddSlot({.tables = binding.tables, .session = nullptr, .strength = binding.strength, .shadow = false});
    }
    if (i + 1 < count && rows.size() < kBatchRows) continue;
    POINTSMAN_TRY(std::vector<Generation> batch, GenerateBatch(model, rows, options));
    std::move(batch.begin(), batch.end(), std::back_inserter(samples));
    for (const BatchPrompt& row : rows) {
      if (row.slot != 0) router.ReleaseSlot(row.slot);
    }
    rows.clear();
  }
  return samples;
}

// The answer that most samples give, and the first sample that gives it.
Output VoteOn(const AnswerPattern& pattern, const std::string& prompt, const std::vector<int32_t>& prompt_tokens,
              const std::vector<Generation>& samples) {
  std::vector<std::optional<std::string>> answers;
  for (const Generation& sample : samples) {
    const auto found = pattern.Find(sample.text);
    answers.push_back(found ? std::optional(found->text) : std::nullopt);
  }
  const auto votes = CountVotes(answers);
  const size_t shown =
      votes.empty() ? 0 : std::ranges::find(answers, std::optional(votes.front().answer)) - answers.begin();
  nlohmann::json counted = nlohmann::json::array();
  std::string line = votes.empty() ? "no sample has an answer" : "answer";
  for (const auto& vote : votes) {
    counted.push_back({{"answer", vote.answer}, {"votes", vote.votes}});
    line += fmt::format("{} {} ({} of {})", counted.size() > 1 ? "," : "", vote.answer, vote.votes, samples.size());
  }
  const nlohmann::json answer = votes.empty() ? nlohmann::json() : nlohmann::json(votes.front().answer);
  return {.json = {{"text", samples[shown].text},
                   {"tokens", samples[shown].tokens},
                   {"prompt_tokens", prompt_tokens},
                   {"finish_reason", FinishReasonName(samples[shown].finish_reason)},
                   {"self_consistency", {{"samples", samples.size()}, {"answer", answer}, {"votes", counted}}}},
          .text = prompt + samples[shown].text + "\n\n" + line + "\n",
          .exit_code = 0};
}

}  // namespace

Result<Output> RunGenerate(const Settings& settings) {
  if (settings.Flag("explain") && !settings.Has("memory")) {
    return Error{ErrorCode::kInvalidArgument, "--explain: there is nothing to explain without a memory; add --memory"};
  }
  POINTSMAN_TRY(const std::optional<AnswerPattern> voting, VotingPattern(settings));
  if (settings.Has("session") && !settings.Flag("rewire")) {
    return Error{ErrorCode::kInvalidArgument, "--session: a session is what online rerouting learns; add --rewire"};
  }
  for (const Setting& setting : settings.all()) {  // a configuration file may speak for other commands, too
    if (setting.source == "flag" && setting.option->name.starts_with("rewire-") && !settings.Flag("rewire")) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--{}: it says how to rewire, nothing says to; add --rewire", setting.option->name)};
    }
  }
  if (settings.Has("session") && voting) {
    return Error{ErrorCode::kInvalidArgument, "--session: it follows one text; leave --self-consistency out"};
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
    if (settings.Flag("explain")) {
      std::string warning;
      explainer.emplace(*model, memory, &warning);
      if (!warning.empty()) spdlog::warn("{}", warning);
    }
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
  if (voting) {
    POINTSMAN_TRY(const std::vector<Generation> samples,
                  Sample(*model, prompt_tokens, options, router, binding, settings.Integer("self-consistency")));
    return VoteOn(*voting, prompt, prompt_tokens, samples);
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
