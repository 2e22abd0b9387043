#include "daemon/api/completion_request.h"

#include <fmt/format.h>

#include <limits>
#include <random>

#include "daemon/json_body.h"

namespace pointsman {
namespace {

using nlohmann::json;

constexpr size_t kMostStops = 4;

// Fields of OpenAI's API that would change the answer and are not here: refused by name rather than ignored.
void RefuseUnsupported(const json& body, FieldReader& fields) {
  const auto refuse = [&](const char* name, const char* why) {
    fields.Fail(name, fmt::format("not supported{}; leave it out", why), ApiCode::kUnprocessable);
  };
  for (const char* name : {"tools", "tool_choice", "functions", "function_call", "suffix", "modalities", "audio",
                           "prediction", "reasoning_effort", "web_search_options"}) {
    if (const json* value = fields.Member(name); value && !value->is_null() && !(value->is_array() && value->empty())) {
      refuse(name, "");
    }
  }
  for (const char* name : {"presence_penalty", "frequency_penalty"}) {
    if (const json* value = fields.Member(name); value && !value->is_null() && *value != 0) refuse(name, " but as 0");
  }
  if (const json* value = fields.Member("logit_bias"); value && !value->is_null() && !value->empty()) {
    refuse("logit_bias", "");
  }
  if (const json* value = fields.Member("response_format");
      value && !(value->is_object() && value->contains("type") && (*value)["type"] == "text")) {
    refuse("response_format", " but as {\"type\": \"text\"}");
  }
  if (const json* value = fields.Member("best_of"); value && !value->is_null() && *value != body.value("n", json(1))) {
    refuse("best_of", " but as n");
  }
  // Of no effect on the answer.
  for (const char* name : {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                           "parallel_tool_calls", "verbosity"}) {
    fields.Member(name);
  }
}

std::optional<std::vector<int32_t>> TokensOf(const json& list, int64_t vocabulary, FieldReader& fields) {
  std::vector<int32_t> tokens;
  for (const json& item : list) {
    if (!item.is_number_integer() || item < 0 || item >= vocabulary) {
      fields.Fail("prompt", fmt::format("a token id is outside of 0..{}", vocabulary - 1));
      return std::nullopt;
    }
    tokens.push_back(item.get<int32_t>());
  }
  return tokens;
}

// string | [string, ...] | [id, ...] | [[id, ...], ...]
void ReadPrompts(const json* prompt, const Tokenizer& tokenizer, const RequestLimits& limits, FieldReader& fields,
                 CompletionRequest& request) {
  const auto add_text = [&](const std::string& text) {
    request.prompts.push_back(tokenizer.Encode(text));
    request.prompt_texts.push_back(text);
  };
  const auto add_tokens = [&](const json& list) {
    if (auto tokens = TokensOf(list, limits.vocabulary, fields)) {
      request.prompt_texts.push_back(tokenizer.Decode(*tokens, false));
      request.prompts.push_back(std::move(*tokens));
    }
  };
  const char* kinds = "give a string, a list of strings, a list of token ids or a list of such lists";
  if (!prompt) {
    fields.Fail("prompt", "missing; give the text to go on from");
  } else if (prompt->is_string()) {
    add_text(prompt->get<std::string>());
  } else if (!prompt->is_array() || prompt->empty()) {
    fields.Fail("prompt", kinds);
  } else if (prompt->front().is_number()) {
    add_tokens(*prompt);
  } else if (prompt->size() > kMostChoices) {
    fields.Fail("prompt", fmt::format("{} prompts; at most {} a request", prompt->size(), kMostChoices));
  } else {
    for (const json& item : *prompt) {
      if (item.is_string()) {
        add_text(item.get<std::string>());
      } else if (item.is_array()) {
        add_tokens(item);
      } else {
        fields.Fail("prompt", kinds);
      }
    }
  }
}

void ReadStop(FieldReader& fields, CompletionRequest& request) {
  const json* stop = fields.Member("stop");
  if (!stop || stop->is_null()) return;
  if (stop->is_string()) {
    request.stop = {stop->get<std::string>()};
  } else {
    request.stop = fields.Texts("stop", kMostStops, 256);
  }
  for (const std::string& text : request.stop) {
    if (text.empty() || text.size() > 256) fields.Fail("stop", "a stop string has 1 to 256 bytes");
  }
}

void ReadLogprobs(FieldReader& fields, CompletionRequest& request) {
  if (!request.chat) {
    const int64_t count = fields.Integer("logprobs", -1, 0, 20);
    request.logprobs = count >= 0;
    request.top_logprobs = static_cast<int>(std::max<int64_t>(count, 0));
    return;
  }
  request.logprobs = fields.Flag("logprobs", false);
  request.top_logprobs = static_cast<int>(fields.Integer("top_logprobs", 0, 0, 20));
  if (request.top_logprobs > 0 && !request.logprobs) fields.Fail("top_logprobs", "needs logprobs true");
}

void ReadSampling(FieldReader& fields, const RequestLimits& limits, CompletionRequest& request) {
  request.n = fields.Integer("n", 1, 1, kMostChoices);
  request.temperature = fields.Real("temperature", 1, 0, 2);
  request.top_p = fields.Real("top_p", 1, 0, 1);
  if (request.top_p == 0) fields.Fail("top_p", "must be above 0; temperature 0 takes the likeliest token");
  request.ignore_end = fields.Flag("ignore_eos", false);  // vLLM's name
  request.seed_given = fields.Has("seed");
  const int64_t seed =
      fields.Integer("seed", 0, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  request.seed = static_cast<uint64_t>(seed);
  if (!request.seed_given) request.seed = std::random_device()();
  const int64_t fallback = request.chat ? limits.context : 16;
  request.max_tokens = fields.Integer("max_tokens", fallback, 1, 1 << 20);
  if (request.chat) request.max_tokens = fields.Integer("max_completion_tokens", request.max_tokens, 1, 1 << 20);
}

void ReadStreaming(FieldReader& fields, CompletionRequest& request) {
  request.stream = fields.Flag("stream", false);
  const json* options = fields.Member("stream_options");
  if (!options || options->is_null()) return;
  FieldReader inner(*options, "stream_options.");
  request.include_usage = inner.Flag("include_usage", false);
  inner.Flag("include_obfuscation", false);
  inner.Finish();
  fields.Absorb(inner);
  if (!request.stream) fields.Fail("stream_options", "needs stream true");
}

void ReadOurs(FieldReader& fields, CompletionRequest& request) {
  if (fields.IsNull("memory")) {
    request.memory_choice = CompletionRequest::Memory::kFrozen;
  } else if (fields.Has("memory")) {
    request.memory_choice = CompletionRequest::Memory::kNamed;
    request.memory = fields.Text("memory", {}, 64);
  }
  if (fields.Has("strength")) request.strength = fields.Real("strength", 1, 0, 1);
  request.session = fields.Text("session", {}, 128);
  request.explain = fields.Flag("explain", false);
  request.shadow = fields.Flag("shadow", false);
  auto rewire = ParseRewire(fields.Member("rewire"), "rewire.");
  if (const auto* error = std::get_if<ApiError>(&rewire)) {
    fields.Absorb(*error);
  } else {
    request.rewire = std::get<std::optional<RewireFields>>(rewire);
  }
}

void CheckLengths(const RequestLimits& limits, FieldReader& fields, const CompletionRequest& request) {
  const char* name = request.chat ? "messages" : "prompt";
  if (request.prompts.size() * static_cast<size_t>(request.n) > kMostChoices) {
    fields.Fail("n", fmt::format("{} prompts with {} choices each; at most {} choices a request",
                                 request.prompts.size(), request.n, kMostChoices));
  }
  for (const auto& prompt : request.prompts) {
    if (prompt.empty()) {
      fields.Fail(name, "there is no text to go on from; give at least one character");
    } else if (static_cast<int64_t>(prompt.size()) >= limits.context) {
      fields.Fail(name,
                  fmt::format("{} tokens; the model's context has {}, and at least one must be left for the answer",
                              prompt.size(), limits.context),
                  ApiCode::kContextExceeded);
    }
  }
}

// A boolean, or nats per token that turn it on.
void ReadNats(FieldReader& fields, const std::string& name, bool& on, double& nats) {
  const json* value = fields.Member(name);
  if (!value || value->is_null()) return;
  if (value->is_boolean()) {
    on = value->get<bool>();
  } else if (value->is_number()) {
    on = true;
    nats = fields.Real(name, 0, 0, 100);
  } else {
    fields.Fail(name, "use true, false or nats per token");
  }
}

}  // namespace

std::variant<std::optional<RewireFields>, ApiError> ParseRewire(const json* value, const std::string& path) {
  using Parsed = std::variant<std::optional<RewireFields>, ApiError>;
  if (!value || value->is_null() || (value->is_boolean() && !value->get<bool>())) {
    return Parsed(std::optional<RewireFields>());
  }
  RewireFields rewire;
  if (value->is_boolean()) return Parsed(std::optional(rewire));
  FieldReader fields(*value, path);
  rewire.rerouting.steps = static_cast<int>(fields.Integer("steps", rewire.rerouting.steps, 0, 50));
  rewire.rerouting.rate = fields.Real("lr", rewire.rerouting.rate, 1e-6, 10);
  rewire.interval = fields.Integer("interval", rewire.interval, 1, 1'000'000);
  if (fields.Has("rule")) {
    ParseReroutingRule(fields.Choice("rule", "agreement", {"adam", "evidence", "agreement"}), &rewire.rerouting);
  }
  const std::string layers = fields.Text("layers", "all", 32);
  if (!ParseReroutedLayers(layers, &rewire.rerouting)) {
    fields.Fail("layers", "use " + std::string(kReroutedLayersHelp));
  }
  ReadNats(fields, "guard", rewire.rerouting.guard, rewire.rerouting.guard_margin);
  ReadNats(fields, "stop", rewire.rerouting.stop_early, rewire.rerouting.stop_below);
  rewire.recompute = fields.Choice("kv", "keep", {"keep", "recompute"}) == "recompute";
  fields.Finish();
  if (fields.error()) return Parsed(*fields.error());
  return Parsed(std::optional(rewire));
}

std::variant<CompletionRequest, ApiError> ParseCompletionRequest(const json& body, bool chat,
                                                                 const Tokenizer& tokenizer, const ChatEncoder& encode,
                                                                 const RequestLimits& limits) {
  CompletionRequest request;
  request.chat = chat;
  FieldReader fields(body);
  request.model = fields.Text("model", {}, 256);
  ReadSampling(fields, limits, request);
  ReadStop(fields, request);
  ReadLogprobs(fields, request);
  ReadStreaming(fields, request);
  ReadOurs(fields, request);
  RefuseUnsupported(body, fields);
  if (chat) {
    const json* messages = fields.Member("messages");
    fields.Member("chat_template_kwargs");
    if (!messages || !messages->is_array() || messages->empty()) {
      fields.Fail("messages", "give a list of at least one message with role and content");
    } else if (!fields.error()) {
      auto encoded = encode(*messages, body);
      if (auto* error = std::get_if<ApiError>(&encoded)) return *error;
      request.prompts.push_back(std::move(std::get<std::vector<int32_t>>(encoded)));
      request.prompt_texts.emplace_back();
    }
  } else {
    request.echo = fields.Flag("echo", false);
    if (request.echo && request.logprobs) {
      fields.Fail("echo", "the prompt's log probabilities are not computed; leave logprobs out",
                  ApiCode::kUnprocessable);
    }
    ReadPrompts(fields.Member("prompt"), tokenizer, limits, fields, request);
  }
  if (!fields.error()) CheckLengths(limits, fields, request);
  fields.Finish();
  if (fields.error()) return *fields.error();
  return request;
}

}  // namespace pointsman
