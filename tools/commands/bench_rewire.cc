// pointsman bench rewire: the time that online rerouting adds to generation, both sides in turn in one run.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "adapt/online_rerouting.h"
#include "memory/stopwatch.h"
#include "models/generate.h"
#include "models/model.h"
#include "tools/command.h"
#include "tools/corpus_settings.h"
#include "tools/rewire_settings.h"

namespace pointsman {
namespace {

// What is continued: any text will do, the time does not depend on it. It is repeated and cut to the length asked for.
constexpr std::string_view kText =
    "The routing memory keeps, for every token of a text, the input of each router and the change of its logits that "
    "made the next token likelier. A similar token that comes later is changed in the same way, as far as it is "
    "similar; a gate keeps everything else as it was. ";

struct Timed {
  double total_s = 0;
  double context_s = 0;  // rewired: learning and reading the prompt; plain: until the first token
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::vector<int32_t> PromptOf(const MoeModel& model, size_t tokens) {
  std::string text(kText);
  std::vector<int32_t> ids = model.tokenizer().Encode(text);
  while (ids.size() < tokens) ids = model.tokenizer().Encode(text += kText);
  ids.resize(tokens);
  return ids;
}

// One generation; without `rewire` the frozen model's.
Result<Timed> Time(const MoeModel& model, std::span<const int32_t> prompt, GenerateOptions options,
                   const OnlineReroutingOptions* rewire) {
  Timed timed;
  Router router;
  RouterHook hook(router);
  std::optional<OnlineRerouting> rerouting;
  const auto started = std::chrono::steady_clock::now();
  if (rewire) {
    options.slot = router.AddSlot({});
    options.hook = &hook;
    rerouting.emplace(model, router, hook, options.slot, *rewire);
    options.on_context = [&](std::span<const int32_t> context, KvCache& cache) {
      const auto begun = std::chrono::steady_clock::now();
      auto logits = rerouting->OnContext(context, cache);
      timed.context_s += SecondsSince(begun);
      return logits;
    };
  }
  options.on_token = [&](int32_t, std::string_view) {
    if (!rewire && timed.context_s == 0) timed.context_s = SecondsSince(started);
    return true;
  };
  POINTSMAN_CHECK_OK(Generate(model, prompt, options));
  timed.total_s = SecondsSince(started);
  return timed;
}

}  // namespace

Result<Output> RunBenchRewire(const Settings& settings) {
  at::set_num_threads(ThreadsOf(settings));
  POINTSMAN_TRY(const auto model, MoeModel::Load(settings.Path("model")));
  OnlineReroutingOptions rewire;
  POINTSMAN_TRY(rewire.rerouting, ReroutingOptionsOf(settings));
  rewire.recompute = settings.Text("rewire-kv") == "recompute";
  GenerateOptions options;
  options.max_tokens = settings.Integer("max-tokens");
  options.context_interval = settings.Integer("rewire-interval");
  options.ignore_end = true;
  const int64_t prompt_tokens = settings.Integer("prompt-tokens"), runs = settings.Integer("runs");
  if (prompt_tokens + options.max_tokens > model->config().max_positions) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("--prompt-tokens {} and --max-tokens {} are more than the model's context of {}; use less",
                             prompt_tokens, options.max_tokens, model->config().max_positions)};
  }
  const std::vector<int32_t> prompt = PromptOf(*model, prompt_tokens);

  std::vector<double> plain, rewired, ratios, learning, reading;
  for (int64_t run = -1; run < runs; ++run) {  // the first pair warms up
    POINTSMAN_TRY(const Timed without, Time(*model, prompt, options, nullptr));
    POINTSMAN_TRY(const Timed with, Time(*model, prompt, options, &rewire));
    if (run < 0) continue;
    plain.push_back(without.total_s);
    rewired.push_back(with.total_s);
    ratios.push_back(with.total_s / without.total_s);  // of neighbours in time: a busy machine slows both
    reading.push_back(without.context_s);
    learning.push_back(with.context_s);
  }
  const double plain_s = Median(plain), rewired_s = Median(rewired);
  return Output{.json = {{"plain_s", plain_s},
                         {"rewired_s", rewired_s},
                         {"ratio", Median(ratios)},
                         {"plain_prompt_s", Median(reading)},
                         {"rewired_prompt_s", Median(learning)},
                         {"prompt_tokens", prompt_tokens},
                         {"new_tokens", options.max_tokens},
                         {"runs", runs}},
                .text = fmt::format("{} new tokens after {} of prompt, median of {} runs in turn:\n"
                                    "  plain    {:.4f} s, of it {:.4f} s for the prompt\n"
                                    "  rewired  {:.4f} s, of it {:.4f} s for the prompt and learning\n"
                                    "  ratio    {:.3f}, median over pairs\n",
                                    options.max_tokens, prompt_tokens, runs, plain_s, Median(reading), rewired_s,
                                    Median(learning), Median(ratios)),
                .exit_code = 0};
}

}  // namespace pointsman
