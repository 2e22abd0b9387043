#include "daemon/engine/task_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "daemon/engine/completion.h"
#include "router/shapes.h"

namespace pointsman {
namespace {

constexpr int kMostTopLogprobs = 20;  // OpenAI's

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

CallShape ShapeOf(const MoeConfig& config, int32_t layer) {
  return {.layer = layer,
          .rows = 1,
          .hidden = static_cast<size_t>(config.hidden_size),
          .experts = static_cast<size_t>(layer == kOutputLayer ? config.vocab_size : config.num_experts)};
}

Status CheckVectors(const MoeConfig& config, const SessionVectors& session) {
  for (size_t i = 0; i < session.by_layer.size(); ++i) {
    const auto layer = static_cast<int32_t>(i);
    if (layer >= config.num_layers && !session.by_layer[i].empty()) {
      return Invalid(
          fmt::format("layer {}: the session has a vector, the model has {} layers; bind a session of this "
                      "model",
                      layer, config.num_layers));
    }
    POINTSMAN_CHECK_OK(CheckSessionFits(&session, ShapeOf(config, layer)));
    if (!std::ranges::all_of(session.by_layer[i], [](float value) { return std::isfinite(value); })) {
      return Invalid(fmt::format("layer {}: the session's vector is not finite; start a new session", layer));
    }
  }
  return {};
}

Status CheckBinding(const MoeConfig& config, const Binding& binding) {
  if (binding.tables) {
    for (const LayerView& layer : binding.tables->layers) {
      POINTSMAN_CHECK_OK(CheckTablesFit(*binding.tables, ShapeOf(config, layer.layer)));
    }
    if (binding.tables->output.enabled) {
      POINTSMAN_CHECK_OK(CheckOutputFits(binding.tables->output, ShapeOf(config, kOutputLayer)));
    }
  }
  return binding.session ? CheckVectors(config, *binding.session) : Status();
}

Status CheckRerouting(const ReroutingOptions& options) {
  if (options.steps < 0) return Invalid(fmt::format("rewire: {} steps; use 0 or more", options.steps));
  if (!std::isfinite(options.rate)) return Invalid("rewire: the rate is not finite; use 0.03 or near it");
  if (std::isnan(options.guard_margin)) return Invalid("rewire: the guard's margin is not a number; use 0 or more");
  if (std::isnan(options.stop_below)) return Invalid("rewire: stop is not a number; use 0 or more");
  if (options.layer_count < 0) {
    return Invalid(fmt::format("rewire: {} layers; use 1 or more, or 0 for half of them", options.layer_count));
  }
  return {};
}

}  // namespace

Status CheckTask(const MoeConfig& config, const CompletionTask& task) {
  POINTSMAN_CHECK_OK(CheckRequest(config, task.prompt, OptionsOf(task)));
  if (task.top_logprobs < 0 || task.top_logprobs > kMostTopLogprobs) {
    return Invalid(fmt::format("top_logprobs is {}: use 0 to {}", task.top_logprobs, kMostTopLogprobs));
  }
  POINTSMAN_CHECK_OK(CheckBinding(config, task.binding));
  if (!task.rewire) return {};
  POINTSMAN_CHECK_OK(CheckVectors(config, task.rewire->start));
  return CheckRerouting(task.rewire->rerouting);
}

Status CheckTask(const MoeConfig& config, const LearnTask& task) {
  const size_t size = task.context.size();
  if (size < 2) {
    return Invalid(fmt::format("the context has {} tokens: give at least 2, one to read and one that follows", size));
  }
  if (static_cast<int64_t>(size) > config.max_positions) {
    return Invalid(fmt::format("the context has {} tokens but the model's holds {}: feed it in parts", size,
                               config.max_positions));
  }
  POINTSMAN_CHECK_OK(CheckRequest(config, task.context, {}));
  POINTSMAN_CHECK_OK(CheckBinding(config, task.binding));
  return CheckRerouting(task.rerouting);
}

}  // namespace pointsman
