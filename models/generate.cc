#include "models/generate.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>

#include "models/generated_text.h"

namespace pointsman {
namespace {

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

at::Tensor AsIds(std::span<const int32_t> tokens) {
  at::Tensor ids = at::empty({1, static_cast<int64_t>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.data_ptr<int64_t>());
  return ids;
}

Result<Generation> Run(const MoeModel& model, std::span<const int32_t> prompt, const GenerateOptions& options) {
  const at::NoGradGuard no_grad;
  const MoeConfig& config = model.config();
  KvCache cache = model.NewCache(1);
  const MoeModel::ForwardOptions forward{
      .hook = options.hook, .slots = {options.slot}, .cache = &cache, .last_only = true};
  GeneratedText text(model, options);
  bool cancelled = false;
  std::vector<int32_t> context(prompt.begin(), prompt.end());
  std::vector<int32_t> next = context;
  while (!text.ended() && cache.length + static_cast<int64_t>(next.size()) <= config.max_positions) {
    at::Tensor logits;
    if (options.on_context && static_cast<int64_t>(text.tokens().size()) % options.context_interval == 0) {
      POINTSMAN_TRY(logits, options.on_context(context, cache));
    }
    if (!logits.defined()) logits = model.Forward(AsIds(next), forward);
    if (options.hook) POINTSMAN_CHECK_OK(options.hook->status());
    const int32_t token = text.Take(std::span(logits.const_data_ptr<float>(), config.vocab_size));
    if (token < 0) break;
    if (options.on_token) cancelled = !options.on_token(token, text.Release());
    if (cancelled) text.End(FinishReason::kCancelled);
    next.assign(1, token);
    context.push_back(token);
  }
  if (options.on_token && !cancelled) {
    const std::string_view rest = text.ReleaseRest();
    if (!rest.empty() && !options.on_token(-1, rest)) text.End(FinishReason::kCancelled);
  }
  return text.Finish();
}

// Index drawn from weights in the order of `ids`; `target` in [0, sum of weights).
int32_t Draw(std::span<const int32_t> ids, std::span<const double> weights, double target) {
  for (int32_t id : ids) {
    target -= weights[id];
    if (target < 0) return id;
  }
  return ids.back();
}

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

int32_t SampleToken(std::span<const float> logits, double temperature, double top_p, std::mt19937_64& random) {
  const auto best = std::ranges::max_element(logits);  // the first of equal ones
  if (temperature == 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<double> weights(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) weights[i] = std::exp((double{logits[i]} - *best) / temperature);
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (top_p < 1) {
    std::ranges::sort(ids,
                      [&](int32_t a, int32_t b) { return weights[a] != weights[b] ? weights[a] > weights[b] : a < b; });
    double kept = 0;
    size_t count = 0;
    while (count < ids.size() && (count == 0 || kept < top_p * total)) kept += weights[ids[count++]];
    ids.resize(count);
    total = kept;
  }
  const double uniform = static_cast<double>(random() >> 11) * 0x1.0p-53;  // [0, 1), the same in every library
  return Draw(ids, weights, uniform * total);
}

Status CheckRequest(const MoeConfig& config, std::span<const int32_t> prompt, const GenerateOptions& options) {
  if (prompt.empty()) return Invalid("the prompt is empty: give at least one token of text");
  if (static_cast<int64_t>(prompt.size()) > config.max_positions) {
    return Invalid(fmt::format("the prompt has {} tokens but the model's context is {}: shorten the prompt",
                               prompt.size(), config.max_positions));
  }
  for (int32_t token : prompt) {
    if (token < 0 || token >= config.vocab_size) {
      return Invalid(
          fmt::format("the prompt has token {} but the vocabulary has ids 0 to {}: use the model's tokenizer", token,
                      config.vocab_size - 1));
    }
  }
  if (options.context_interval < 1) {
    return Invalid(fmt::format("context_interval is {}: use 1 or more", options.context_interval));
  }
  if (options.max_tokens < 0) return Invalid(fmt::format("max_tokens is {}: use 0 or more", options.max_tokens));
  if (!(options.temperature >= 0) || std::isinf(options.temperature)) {
    return Invalid(fmt::format("temperature is {}: use 0 (greedy) or more", options.temperature));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return Invalid(fmt::format("top_p is {}: use a value above 0, up to 1", options.top_p));
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty()) return Invalid("a stop string is empty: leave it out");
  }
  return {};
}

Result<Generation> Generate(const MoeModel& model, std::span<const int32_t> prompt, const GenerateOptions& options) {
  POINTSMAN_CHECK_OK(CheckRequest(model.config(), prompt, options));
  try {
    return Run(model, prompt, options);
  } catch (const std::exception& exception) {
    const std::string text = exception.what();
    return Error{ErrorCode::kInternal, fmt::format("generation failed in LibTorch ({}): free memory and retry",
                                                   text.substr(0, text.find('\n')))};
  }
}

}  // namespace pointsman
