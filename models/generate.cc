#include "models/generate.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>

namespace pointsman {
namespace {

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

// Bytes at the end of `text` that begin a UTF-8 character without finishing it.
size_t UnfinishedBytes(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // inside a character
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

// The text so far, and how much of it can no longer change.
class TextStream {
 public:
  explicit TextStream(const std::vector<std::string>& stops) : stops_(stops) {}

  // Appends; true if a stop string is complete (the text then ends before it).
  bool Append(std::string_view piece) {
    // A stop string that ends in the new piece starts at most its own length before it.
    const size_t before = text_.size();
    text_ += piece;
    size_t cut = std::string::npos;
    for (const std::string& stop : stops_) {
      const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
      cut = std::min(cut, text_.find(stop, from));
    }
    if (cut == std::string::npos) return false;
    text_.resize(cut);
    return true;
  }

  // What became final since the last call; all of the rest if `finished`.
  std::string_view Release(bool finished) {
    size_t held = 0;
    if (!finished) {
      held = UnfinishedBytes(text_);
      for (const std::string& stop : stops_) held = std::max(held, PartialMatch(stop));
    }
    const size_t end = std::max(text_.size() - held, std::min(released_, text_.size()));
    const std::string_view piece =
        std::string_view(text_).substr(std::min(released_, end), end - std::min(released_, end));
    released_ = end;
    return piece;
  }

  std::string Take() { return std::move(text_); }

 private:
  // Length of the longest proper prefix of `stop` that ends the text.
  size_t PartialMatch(const std::string& stop) const {
    for (size_t length = std::min(stop.size() - 1, text_.size()); length > 0; --length) {
      if (std::string_view(text_).substr(text_.size() - length) == std::string_view(stop).substr(0, length)) {
        return length;
      }
    }
    return 0;
  }

  const std::vector<std::string>& stops_;
  std::string text_;
  size_t released_ = 0;
};

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
  std::mt19937_64 random(options.seed);
  TextStream stream(options.stop);
  Generation result;
  bool stopped = false, cancelled = false;
  std::vector<int32_t> context(prompt.begin(), prompt.end());
  std::vector<int32_t> next = context;
  while (!stopped && !cancelled && static_cast<int64_t>(result.tokens.size()) < options.max_tokens &&
         cache.length + static_cast<int64_t>(next.size()) <= config.max_positions) {
    at::Tensor logits;
    if (options.on_context && static_cast<int64_t>(result.tokens.size()) % options.context_interval == 0) {
      POINTSMAN_TRY(logits, options.on_context(context, cache));
    }
    if (!logits.defined()) logits = model.Forward(AsIds(next), forward);
    if (options.hook) POINTSMAN_CHECK_OK(options.hook->status());
    const int32_t token = SampleToken(std::span(logits.const_data_ptr<float>(), config.vocab_size), options.temperature,
                                      options.top_p, random);
    if (!options.ignore_end && std::ranges::find(config.eos_token_ids, token) != config.eos_token_ids.end()) {
      stopped = true;
      break;
    }
    result.tokens.push_back(token);
    stopped = stream.Append(model.tokenizer().Decode(std::span(&token, 1)));
    if (options.on_token) cancelled = !options.on_token(token, stream.Release(stopped));
    next.assign(1, token);
    context.push_back(token);
  }
  if (options.on_token && !cancelled) {
    if (const std::string_view rest = stream.Release(true); !rest.empty()) cancelled = !options.on_token(-1, rest);
  }
  result.text = stream.Take();
  result.finish_reason = stopped ? FinishReason::kStop : cancelled ? FinishReason::kCancelled : FinishReason::kLength;
  return result;
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
