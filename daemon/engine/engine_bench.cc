#include "daemon/engine/engine_bench.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "daemon/engine/engine.h"
#include "memory/stopwatch.h"
#include "models/router_hook.h"

namespace pointsman {
namespace {

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

CompletionTask TaskOf(const EngineBenchSpec& spec, uint32_t client) {
  CompletionTask task;
  task.prompt = spec.prompts[client % spec.prompts.size()];
  task.max_tokens = spec.new_tokens;
  task.ignore_end = true;
  task.binding.tables = spec.tables;
  return task;
}

// Seconds until all clients have their text.
Result<double> TimeEngine(Engine& engine, const EngineBenchSpec& spec, uint32_t clients) {
  std::vector<std::promise<Status>> ends(clients);
  const auto begun = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < clients; ++i) {
    CompletionTask task = TaskOf(spec, i);
    task.on_token = [](const TokenOutput&) {};
    task.on_done = [&end = ends[i]](const Result<CompletionTask::Done>& done) {
      end.set_value(done.ok() ? Status() : Status(done.error()));
    };
    POINTSMAN_CHECK_OK(engine.Submit(std::move(task)));
  }
  Status status;
  for (std::promise<Status>& end : ends) {
    if (const Status ended = end.get_future().get(); !ended.ok()) status = ended;
  }
  const double seconds = SecondsSince(begun);
  POINTSMAN_CHECK_OK(status);
  return seconds;
}

Result<double> TimeGenerate(const MoeModel& model, const EngineBenchSpec& spec) {
  Router router;
  RouterHook hook(router);
  const CompletionTask task = TaskOf(spec, 0);
  GenerateOptions options;
  options.max_tokens = task.max_tokens;
  options.ignore_end = true;
  options.on_token = [](int32_t, std::string_view) { return true; };
  const auto begun = std::chrono::steady_clock::now();
  if (spec.tables) {
    options.slot = router.AddSlot(task.binding);
    options.hook = &hook;
  }
  POINTSMAN_CHECK_OK(Generate(model, task.prompt, options));
  return SecondsSince(begun);
}

}  // namespace

Result<EngineBenchReport> BenchEngine(std::shared_ptr<const MoeModel> model, const EngineBenchSpec& spec) {
  const uint32_t most = *std::ranges::max_element(spec.clients);
  const EngineOptions options{.slots = most, .waiting = most, .prefill_tokens = 256, .threads = spec.threads};
  at::set_num_threads(spec.threads);
  POINTSMAN_TRY(const auto engine, Engine::Start(model, options));
  std::vector<std::vector<double>> seconds(spec.clients.size());
  std::vector<double> alone, ratios;
  for (int round = -1; round < spec.rounds; ++round) {
    POINTSMAN_TRY(const double generate, TimeGenerate(*model, spec));
    POINTSMAN_TRY(const double single, TimeEngine(*engine, spec, 1));
    if (round >= 0) {
      alone.push_back(generate);
      ratios.push_back(single / generate);
    }
    for (size_t i = 0; i < spec.clients.size(); ++i) {
      POINTSMAN_TRY(const double took, TimeEngine(*engine, spec, spec.clients[i]));
      if (round >= 0) seconds[i].push_back(took);
    }
  }
  EngineBenchReport report{.runs = {}, .generate_s = Median(alone), .overhead = Median(ratios) - 1};
  for (size_t i = 0; i < spec.clients.size(); ++i) {
    const double median = Median(seconds[i]), tokens = static_cast<double>(spec.clients[i] * spec.new_tokens);
    report.runs.push_back({.clients = spec.clients[i], .seconds = median, .tokens_per_s = tokens / median});
  }
  return report;
}

}  // namespace pointsman
